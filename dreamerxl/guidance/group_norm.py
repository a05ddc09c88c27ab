"""Group norm with SiLU over channels-last images, forward and backward to the input.

    x, dy      [N, C, H, W], channels last in memory, bf16, fp16 or float32; sums are float32
    shift      [N, C] or [C] added to x first: the bias of the convolution before it, a time embedding
    y          silu(weight * xhat + bias), xhat = (x + shift - mean) / sqrt(var + eps), statistics by sample and group
PyTorch's own kernel copies channels-last input to channels-first, which the next convolution copies back, and takes a
pass of its own for the SiLU and one for the bias. On CUDA these are Triton kernels, elsewhere their plain twins, which
say what is computed. Weights carry no gradient.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None  # PyTorch for CUDA brings it along on Linux


@dataclass(frozen=True, eq=False)
class Affine:
    """xhat = x * stretch + offset, by sample and channel: [N, C] float32."""

    stretch: Tensor  # 1 / sqrt(var + eps)
    offset: Tensor  # (shift - mean) * stretch


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True, shift: Tensor | None = None
) -> tuple[Tensor, Affine]:
    """y, and what the backward needs of the statistics."""
    if _on_card(x):
        from dreamerxl.guidance import group_norm_triton as fast

        affine = Affine(*fast.statistics(x, groups, eps, shift))
        return fast.apply(x, affine.stretch, affine.offset, weight, bias, silu), affine
    affine = statistics(x, groups, eps, shift)
    y = _normed(x, affine) * weight.float()[:, None, None] + bias.float()[:, None, None]
    return (F.silu(y) if silu else y).to(x.dtype), affine


def group_norm_backward(
    dy: Tensor, x: Tensor, affine: Affine, weight: Tensor, bias: Tensor, groups: int, silu: bool = True, add: Tensor | None = None
) -> Tensor:
    """The gradient for x of <dy, y>, plus ``add`` (the gradient that comes round a residual)."""
    if _on_card(x):
        from dreamerxl.guidance import group_norm_triton as fast

        return fast.backward(dy, x, affine.stretch, affine.offset, weight, bias, groups, silu, add)
    xhat, scale = _normed(x, affine), weight.float()[:, None, None]
    g = dy.float()
    if silu:
        z = xhat * scale + bias.float()[:, None, None]
        sigma = z.sigmoid()
        g = g * sigma * (1 + z * (1 - sigma))
    g = g * scale
    dx = affine.stretch[..., None, None] * (g - _group_means(g, groups) - xhat * _group_means(g * xhat, groups))
    return (dx if add is None else dx + add.float()).to(x.dtype)


def add_shifted(a: Tensor, b: Tensor, shift: Tensor) -> Tensor:
    """a + b + shift, shift [C]: a residual and the bias of the convolution that ends it, in one pass."""
    if _on_card(a):
        from dreamerxl.guidance import group_norm_triton as fast

        return fast.add_shifted(a, b, shift)
    return a + b + shift[:, None, None]


def statistics(x: Tensor, groups: int, eps: float, shift: Tensor | None = None) -> Affine:
    """Mean and variance of x + shift over each sample's groups, as the affine map to xhat."""
    n, c = x.shape[:2]
    moved = x.float() if shift is None else x.float() + shift.float().expand(n, c)[..., None, None]
    parts = moved.reshape(n, groups, -1)
    stretch = (parts.var(2, unbiased=False) + eps).rsqrt().repeat_interleave(c // groups, 1)
    offset = -parts.mean(2).repeat_interleave(c // groups, 1)
    return Affine(stretch, (offset if shift is None else offset + shift.float()) * stretch)


def _on_card(x: Tensor) -> bool:
    return x.is_cuda and HAS_TRITON


def _normed(x: Tensor, affine: Affine) -> Tensor:
    return x.float() * affine.stretch[..., None, None] + affine.offset[..., None, None]


def _group_means(values: Tensor, groups: int) -> Tensor:
    n, c = values.shape[:2]
    return values.reshape(n, groups, -1).mean(2).repeat_interleave(c // groups, 1)[..., None, None]
