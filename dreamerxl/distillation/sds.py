"""Score distillation sampling (Poole et al., 2022): one noise, compared with its guided prediction."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.queries import Distillation, Guided
from dreamerxl.distillation.score import score
from dreamerxl.distillation.timesteps import Steps


def sds(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Distillation:
    """omega(t) (eps(x_t, t, y) - noise) with x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) noise (DreamFusion, Eq. 3)."""
    x_t = schedule.add_noise(x_0, noise, steps.t)
    (eps_t,) = yield (Guided(x_t, steps.t),)
    return score(schedule, variant.weight, x_t, eps_t, noise, steps.t)
