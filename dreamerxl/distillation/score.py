"""The outcome of a distillation method, and the weight omega(t) of Eqs. 3 and 8.

    gradient       omega(t) (eps_t - eps_reference), the latent gradient       [B, C, h, w]
    x_t, eps_t     the noised latents and the guided prediction there          [B, C, h, w]
    eps_reference  noise (SDS), eps(x_s) (ISM), eps(x_mu) (TSM), eps(x_t) (CSD), eps_phi(x_t) (VSD)  [B, C, h, w]
``schedule.predict_x0(x_t, eps_t, t)`` is the pseudo ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamerxl.diffusion.schedule import Schedule

Weight = Literal["released", "dreamfusion", "uniform"]


@dataclass(frozen=True, eq=False)
class Score:
    """The latent gradient of one method at one timestep, detached, and what it was made from."""

    gradient: Tensor
    x_t: Tensor
    eps_t: Tensor
    eps_reference: Tensor
    t: int


def omega(schedule: Schedule, t: int, weight: Weight) -> Tensor:
    """omega(t), a scalar: sqrt((1 - alpha_t) / alpha_t) (released code), 1 - alpha_t (DreamFusion), or 1."""
    alpha = schedule.alpha(t)
    if weight == "released":
        return ((1 - alpha) / alpha).sqrt()
    if weight == "dreamfusion":
        return 1 - alpha
    return torch.ones_like(alpha)


def score(schedule: Schedule, weight: Weight, x_t: Tensor, eps_t: Tensor, eps_reference: Tensor, t: int) -> Score:
    """The score with its latent gradient omega(t) (eps_t - eps_reference) (Eqs. 3, 8)."""
    gradient = omega(schedule, t, weight) * (eps_t - eps_reference)
    return Score(gradient.detach(), x_t, eps_t, eps_reference, t)
