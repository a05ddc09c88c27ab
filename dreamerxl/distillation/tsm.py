"""Trajectory score matching (section 3.2, Algorithm 1): two paths, to mu and to t, from the same inverted x_s."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.inversion import invert
from dreamerxl.distillation.queries import Distillation, Guided, Unconditional
from dreamerxl.distillation.score import score
from dreamerxl.distillation.timesteps import Steps


def tsm(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Distillation:
    """omega(t) (eps(x_t, t, y) - eps(x_mu, mu, empty)) with x_t and x_mu stepped from one x_s (Eq. 8, Algorithm 1).

    At mu = s it reuses eps(x_s) and is ISM; at mu = t, x_mu is x_t and it is CSD on the inverted trajectory; to the
    bit in both cases.
    """
    x_s = yield from invert(x_0, steps, noise, schedule, variant)
    (eps_s,) = yield (Unconditional(x_s, steps.s),)
    x_t = ddim_step(schedule, x_s, eps_s, steps.s, steps.t)
    if steps.mu == steps.s:
        eps_mu = eps_s
        (eps_t,) = yield (Guided(x_t, steps.t),)
    else:
        x_mu = x_t if steps.mu == steps.t else ddim_step(schedule, x_s, eps_s, steps.s, steps.mu)
        eps_t, eps_mu = yield Guided(x_t, steps.t), Unconditional(x_mu, steps.mu)
    return score(schedule, variant.weight, x_t, eps_t, eps_mu, steps.t)
