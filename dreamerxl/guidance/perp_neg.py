"""Perp-Neg: negative prompts that cannot take away what the prompt asks for (Armandpour et al., 2023).

    d_y      eps(x, y) - eps(x, empty), the direction of the prompt                     [B, C, h, w]
    d_i      eps(x, y_i) - eps(x, empty), the direction of the i-th negative prompt     [B, C, h, w]
    d_i^perp d_i - <d_i, d_y> / <d_y, d_y> d_y, one inner product a picture
    eps      eps(x, empty) + w (d_y - sum_i a_i d_i^perp),   a_i >= 0 of each view      [B]
Against the Janus problem the negative prompts of a view are the phrases of other sides (section 4 there): a camera on
the way from the front to a side is pushed away from both ends, one on the way to the back from the side and the front.
The weights are those of the released code, which has them from stable-dreamfusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamerxl.config import Prompting
from dreamerxl.guidance.conditioning import Conditioning

FRONT, LEFT, RIGHT = 0, 1, 3  # rows of the five directions (prompts.py)
CLOSE, FAR = 0.8, 0.2  # a side whose share of the view's phrase is above (or whose rival's is) is not pushed away


@dataclass(frozen=True, eq=False)
class Away:
    """The negative prompts of B views: two rows of conditioning for each and how strongly they count."""

    first: Conditioning  # B rows
    second: Conditioning  # B rows
    weights: Tensor  # [B, 2], 0 or above


def perpendicular(delta: Tensor, direction: Tensor) -> Tensor:
    """The part of delta [B, ...] that is perpendicular to direction [B, ...], picture by picture."""
    of, along = delta.flatten(1).double(), direction.flatten(1).double()
    share = (of * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True).clamp_min(1e-30)
    return (of - share * along).to(delta.dtype).view_as(delta)


def guide(eps_empty: Tensor, eps_prompt: Tensor, eps_away: Sequence[Tensor], weights: Tensor, scale: float) -> Tensor:
    """eps [B, C, h, w] under guidance of that scale; weights [B, len(eps_away)]. All weights 0: plain guidance."""
    prompt = eps_prompt - eps_empty
    change = prompt
    for index, eps in enumerate(eps_away):
        weight = weights[:, index].to(prompt).view(-1, *[1] * (prompt.dim() - 1))
        change = change - weight * perpendicular(eps - eps_empty, prompt)
    return eps_empty + scale * change


def away_from(prompting: Prompting, azimuth_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Which directions each of B views is pushed away from [B, 2], and how strongly [B, 2]. azimuth_deg [B]."""
    azimuth = torch.remainder(azimuth_deg.double() + 180, 360) - 180
    side = torch.where(azimuth >= 0, LEFT, RIGHT)
    front_half = (azimuth >= -90) & (azimuth < 90)
    share = torch.where(front_half, 1 - azimuth.abs() / 90, 2 - azimuth.abs() / 90)  # of the front, or of the side
    front = torch.full_like(side, FRONT)
    indices = torch.where(front_half[:, None], torch.stack([front, side], 1), torch.stack([side, front], 1))

    strength, decays = prompting.perp_neg_weight, (prompting.perp_neg_front_decay, prompting.perp_neg_side_decay)
    from_front = torch.where(share > CLOSE, 0.0, torch.exp(-decays[0] * share))
    from_side = torch.where(share < FAR, 0.0, torch.exp(-decays[1] * (1 - share)))
    behind = torch.where(share > CLOSE, 0.0, torch.exp(-decays[1] * share) / 2)
    there = torch.stack([from_front, from_side], 1)
    beyond = torch.stack([behind, torch.ones_like(behind)], 1)
    return indices, (strength * torch.where(front_half[:, None], there, beyond)).float()
