"""Regularisers of a render: total variation of its colour and depth, and the scale of the Gaussians."""

from __future__ import annotations

from torch import Tensor

from dreamerxl.config import Losses
from dreamerxl.gaussians.rasterize import Render


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels of images [B, H, W, ...], down plus across."""
    down = (images[:, 1:] - images[:, :-1]).square().mean()
    across = (images[:, :, 1:] - images[:, :, :-1]).square().mean()
    return down + across


def regularization(losses: Losses, render: Render, disparity: Tensor, scales: Tensor) -> Tensor | None:
    """The weighted sum of the regularisers whose weight is above 0; None if there are none.

    disparity [B, H, W] stands for the depth: it has no unit, and its background is a plain 0. scales [N, 3].
    """
    terms = []
    if losses.tv_color > 0:
        terms.append(losses.tv_color * total_variation(render.rgb))
    if losses.tv_depth > 0:
        terms.append(losses.tv_depth * total_variation(disparity))
    if losses.scale > 0:
        terms.append(losses.scale * scales.mean())
    return sum(terms[1:], terms[0]) if terms else None
