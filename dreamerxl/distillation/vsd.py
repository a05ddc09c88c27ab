"""Variational score distillation (ProlificDreamer; Wang et al., 2023): against the prediction for the scenes' own renders."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.queries import Distillation, Guided, OfParticles
from dreamerxl.distillation.score import score
from dreamerxl.distillation.timesteps import Steps


def vsd(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Distillation:
    """omega(t) (eps(x_t, t, y) - eps_phi(x_t, t, y, c)), eps_phi trained along on the particles' renders (Eq. 9).

    SDS compares with the very noise that was added, which treats the scene as a single point; eps_phi stands for the
    distribution of all particles, so that they share out the modes of the target instead of each seeking the nearest.
    """
    x_t = schedule.add_noise(x_0, noise, steps.t)
    eps_t, eps_phi = yield Guided(x_t, steps.t), OfParticles(x_t, steps.t)
    return score(schedule, variant.weight, x_t, eps_t, eps_phi, steps.t)
