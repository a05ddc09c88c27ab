"""Classifier score distillation (Yu et al., 2023): the guided against the unconditional prediction at the same x_t."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.inversion import invert
from dreamerxl.distillation.queries import Distillation, Guided, Unconditional
from dreamerxl.distillation.score import score
from dreamerxl.distillation.timesteps import Steps


def csd(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Distillation:
    """omega(t) (eps(x_t, t, y) - eps(x_t, t, empty)): the classifier's term alone.

    ``csd_trajectory`` 'noise' is Yu et al.'s x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) noise; 'inversion' reaches
    x_t by DDIM inversion, which is TSM at gamma = 1 (section 3.3).
    """
    if variant.csd_trajectory == "noise":
        x_t = schedule.add_noise(x_0, noise, steps.t)
    else:
        x_s = yield from invert(x_0, steps, noise, schedule, variant)
        (eps_s,) = yield (Unconditional(x_s, steps.s),)
        x_t = ddim_step(schedule, x_s, eps_s, steps.s, steps.t)
    eps_t, eps_uncond = yield Guided(x_t, steps.t), Unconditional(x_t, steps.t)
    return score(schedule, variant.weight, x_t, eps_t, eps_uncond, steps.t)
