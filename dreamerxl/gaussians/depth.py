"""Depth as a picture.

A diffusion model that knows depth knows it as relative inverse depth: bright is near, the background is black,
and each image has its own range.
"""

from __future__ import annotations

import torch
from torch import Tensor

COVERED = 0.5  # a pixel belongs to the object where alpha exceeds this
FARTHEST = 0.2  # value of the object's farthest pixel: still apart from the background, which is 0


def normalized_disparity(depth: Tensor, alpha: Tensor) -> Tensor:
    """Relative inverse depth [C, H, W] in 0..1 of expected depth [C, H, W] and alpha [C, H, W].

    1 at each image's nearest covered pixel, `FARTHEST` at its farthest, linear in 1/depth between, times alpha;
    so the background is 0. The range is taken from covered pixels and carries no gradient.
    """
    if depth.shape != alpha.shape or depth.dim() != 3:
        raise ValueError(f"depth is {tuple(depth.shape)} and alpha {tuple(alpha.shape)}; two equal shapes [C, H, W] are accepted")
    disparity = 1 / depth.clamp(min=1e-6)  # an empty pixel has depth 0
    with torch.no_grad():
        covered = alpha > COVERED
        near = torch.where(covered, disparity, -torch.inf).amax((1, 2), keepdim=True)
        far = torch.where(covered, disparity, torch.inf).amin((1, 2), keepdim=True)
        empty = ~covered.any(2, keepdim=True).any(1, keepdim=True)
        near = torch.where(empty, disparity.amin((1, 2), keepdim=True), near)
        span = torch.where(empty, 1.0, near - far).clamp(min=1e-6)  # a flat object facing the camera has no span
    share = 1 - (near - disparity) / span
    return alpha * (FARTHEST + (1 - FARTHEST) * share.clamp(0, 1))
