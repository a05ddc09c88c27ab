"""Interval score matching (Liang et al., 2023; section 3.1): the two ends of an interval of the inverted trajectory."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.inversion import invert
from dreamerxl.distillation.queries import Distillation, Guided, Unconditional
from dreamerxl.distillation.score import score
from dreamerxl.distillation.timesteps import Steps


def ism(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Distillation:
    """omega(t) (eps(x_t, t, y) - eps(x_s, s, empty)) with x_s and x_t by DDIM inversion (Eq. 3)."""
    x_s = yield from invert(x_0, steps, noise, schedule, variant)
    (eps_s,) = yield (Unconditional(x_s, steps.s),)
    x_t = ddim_step(schedule, x_s, eps_s, steps.s, steps.t)
    (eps_t,) = yield (Guided(x_t, steps.t),)
    return score(schedule, variant.weight, x_t, eps_t, eps_s, steps.t)
