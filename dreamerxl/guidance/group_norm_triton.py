"""Group norm with SiLU as Triton kernels; what they compute is in group_norm.py, whose names and shapes these follow.

Images [N, C, H, W] lie channels last, so a tile is some pixels times some channels, read in whole lines of memory.
Sums over the pixels go by part and channel first; a second, small kernel puts parts and a group's channels together.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_PIXELS, TILE_CHANNELS, TILES = 32, 64, 16  # a program's tile, and how many of them it adds up
ROWS = 64  # parts that the second kernel reads at once
RUN = 4096  # elements of one program of the plain addition


def statistics(x: Tensor, groups: int, eps: float, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """stretch and offset, both [N, C] float32."""
    n, c, pixels, parts = _size(x)
    sums = x.new_empty(2, n, parts, c, dtype=torch.float32)
    _sums[parts, triton.cdiv(c, TILE_CHANNELS), n](x, sums, n, pixels, c, parts, TILE_PIXELS, TILE_CHANNELS, TILES)
    stretch, offset = x.new_empty(2, n, c, dtype=torch.float32)
    shifted, per_sample, per = shift is not None, shift is not None and shift.dim() == 2, c // groups
    _statistics[groups, n](
        x, sums, stretch if shift is None else shift, stretch, offset, n, pixels, c, parts, eps, per,
        shifted, per_sample, triton.next_power_of_2(per), ROWS,
    )  # fmt: skip
    return stretch, offset


def apply(x: Tensor, stretch: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """y, as x lies."""
    n, c, pixels, _ = _size(x)
    y = torch.empty_like(x)
    _apply[_tiles(n, c, pixels)](x, y, stretch, offset, weight, bias, pixels, c, silu, TILE_PIXELS, TILE_CHANNELS)
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    stretch: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
    add: Tensor | None,
) -> Tensor:
    """dx, as x lies."""
    n, c, pixels, parts = _size(x)
    sums = x.new_empty(2, n, parts, c, dtype=torch.float32)
    means = x.new_empty(2, n, groups, dtype=torch.float32)
    given, per = (stretch, offset, weight, bias), c // groups
    _gradient_sums[parts, triton.cdiv(c, TILE_CHANNELS), n](
        x, dy, *given, sums, n, pixels, c, parts, silu, TILE_PIXELS, TILE_CHANNELS, TILES
    )
    _gradient_means[groups, n](sums, means, n, pixels, c, parts, per, groups, triton.next_power_of_2(per), ROWS)
    dx = torch.empty_like(x)
    _gradient[_tiles(n, c, pixels)](
        x, dy, dx if add is None else add, dx, *given, means, n, pixels, c, per, groups,
        silu, add is not None, TILE_PIXELS, TILE_CHANNELS,
    )  # fmt: skip
    return dx


def add_shifted(a: Tensor, b: Tensor, shift: Tensor) -> Tensor:
    """a + b + shift, as a lies."""
    out, total = torch.empty_like(a), a.numel()
    _add[triton.cdiv(total, RUN),](a, b, shift, out, total, a.shape[1], RUN)
    return out


def _size(x: Tensor) -> tuple[int, int, int, int]:
    """Samples, channels, pixels, and the parts that the pixels are summed in."""
    n, c, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    return n, c, pixels, triton.cdiv(pixels, TILE_PIXELS * TILES)


def _tiles(n: int, c: int, pixels: int) -> tuple[int, int, int]:
    return triton.cdiv(pixels, TILE_PIXELS), triton.cdiv(c, TILE_CHANNELS), n


@triton.jit
def _sums(x_ptr, sums_ptr, n, pixels, c, parts, P: tl.constexpr, C: tl.constexpr, T: tl.constexpr):
    """Sums of x - x[first pixel] and of its square, by part and channel: variances free of cancellation."""
    part, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < c
    base = x_ptr + sample * pixels * c
    first = tl.load(base + channel, mask=real, other=0.0).to(tl.float32)
    total = tl.zeros((P, C), tl.float32)  # added up over the pixels once, at the end
    square = tl.zeros((P, C), tl.float32)
    for tile in range(T):
        pixel = (part * T + tile) * P + tl.arange(0, P)
        mask = (pixel < pixels)[:, None] & real[None, :]
        x = tl.load(base + pixel[:, None].to(tl.int64) * c + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        moved = tl.where(mask, x - first[None, :], 0.0)
        total += moved
        square += moved * moved
    at = (sample * parts + part) * c + channel
    tl.store(sums_ptr + at, tl.sum(total, 0), mask=real)
    tl.store(sums_ptr + n * parts * c + at, tl.sum(square, 0), mask=real)


@triton.jit
def _statistics(
    x_ptr, sums_ptr, shift_ptr, stretch_ptr, offset_ptr, n, pixels, c, parts, eps, per,
    SHIFTED: tl.constexpr, PER_SAMPLE: tl.constexpr, G: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, G)
    real, channel = lane < per, group * per + lane
    total = tl.zeros((G,), tl.float32)
    square = tl.zeros((G,), tl.float32)
    for start in range(0, parts, R):
        row = start + tl.arange(0, R)
        mask = (row < parts)[:, None] & real[None, :]
        at = (sample * parts + row[:, None]) * c + channel[None, :]
        total += tl.sum(tl.load(sums_ptr + at, mask=mask, other=0.0), 0)
        square += tl.sum(tl.load(sums_ptr + n * parts * c + at, mask=mask, other=0.0), 0)
    first = tl.load(x_ptr + sample * pixels * c + channel, mask=real, other=0.0).to(tl.float32)
    shift = tl.zeros((G,), tl.float32)
    if SHIFTED:
        shift = tl.load(shift_ptr + PER_SAMPLE * sample * c + channel, mask=real, other=0.0).to(tl.float32)
    own = tl.where(real, first + shift + total / pixels, 0.0)  # the channel's mean
    mean = tl.sum(own, 0) / per
    spread = tl.where(real, square - total * total / pixels + pixels * (own - mean) * (own - mean), 0.0)
    stretch = 1 / tl.sqrt(tl.sum(spread, 0) / per / pixels + eps)
    at = sample * c + channel
    tl.store(stretch_ptr + at, tl.zeros((G,), tl.float32) + stretch, mask=real)
    tl.store(offset_ptr + at, (shift - mean) * stretch, mask=real)


@triton.jit
def _apply(
    x_ptr, y_ptr, stretch_ptr, offset_ptr, weight_ptr, bias_ptr, pixels, c,
    SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    pixel, sample = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < c
    mask = (pixel < pixels)[:, None] & real[None, :]
    at = (sample * pixels + pixel[:, None]) * c + channel[None, :]
    weight = tl.load(weight_ptr + channel, mask=real, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)
    stretch = tl.load(stretch_ptr + sample * c + channel, mask=real, other=0.0)
    offset = tl.load(offset_ptr + sample * c + channel, mask=real, other=0.0)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = x * (stretch * weight)[None, :] + (offset * weight + bias)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _through(dy, xhat, weight, bias, SILU: tl.constexpr):
    """The gradient for xhat, before the norm's own means are taken off."""
    g = dy * weight
    if SILU:
        z = xhat * weight + bias
        sigma = tl.sigmoid(z)
        g = g * (sigma * (1 + z * (1 - sigma)))
    return g


@triton.jit
def _gradient_sums(
    x_ptr, dy_ptr, stretch_ptr, offset_ptr, weight_ptr, bias_ptr, sums_ptr, n, pixels, c, parts,
    SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    part, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < c
    weight = tl.load(weight_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    stretch = tl.load(stretch_ptr + sample * c + channel, mask=real, other=0.0)[None, :]
    offset = tl.load(offset_ptr + sample * c + channel, mask=real, other=0.0)[None, :]
    total = tl.zeros((P, C), tl.float32)
    along = tl.zeros((P, C), tl.float32)
    for tile in range(T):
        pixel = (part * T + tile) * P + tl.arange(0, P)
        mask = (pixel < pixels)[:, None] & real[None, :]
        at = (sample * pixels + pixel[:, None]) * c + channel[None, :]
        xhat = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) * stretch + offset
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        g = _through(dy, xhat, weight, bias, SILU)
        total += g
        along += g * xhat
    at = (sample * parts + part) * c + channel
    tl.store(sums_ptr + at, tl.sum(total, 0), mask=real)
    tl.store(sums_ptr + n * parts * c + at, tl.sum(along, 0), mask=real)


@triton.jit
def _gradient_means(
    sums_ptr, means_ptr, n, pixels, c, parts, per, groups, G: tl.constexpr, R: tl.constexpr
):  # fmt: skip
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, G)
    real, channel = lane < per, group * per + lane
    total = tl.zeros((G,), tl.float32)
    along = tl.zeros((G,), tl.float32)
    for start in range(0, parts, R):
        row = start + tl.arange(0, R)
        mask = (row < parts)[:, None] & real[None, :]
        at = (sample * parts + row[:, None]) * c + channel[None, :]
        total += tl.sum(tl.load(sums_ptr + at, mask=mask, other=0.0), 0)
        along += tl.sum(tl.load(sums_ptr + n * parts * c + at, mask=mask, other=0.0), 0)
    at = sample * groups + group
    tl.store(means_ptr + at, tl.sum(total, 0) / per / pixels)
    tl.store(means_ptr + n * groups + at, tl.sum(along, 0) / per / pixels)


@triton.jit
def _gradient(
    x_ptr, dy_ptr, add_ptr, dx_ptr, stretch_ptr, offset_ptr, weight_ptr, bias_ptr, means_ptr, n, pixels, c, per, groups,
    SILU: tl.constexpr, ADD: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    pixel, sample = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < c
    mask = (pixel < pixels)[:, None] & real[None, :]
    at = (sample * pixels + pixel[:, None]) * c + channel[None, :]
    weight = tl.load(weight_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    stretch = tl.load(stretch_ptr + sample * c + channel, mask=real, other=0.0)[None, :]
    offset = tl.load(offset_ptr + sample * c + channel, mask=real, other=0.0)[None, :]
    group = sample * groups + channel // per
    mean = tl.load(means_ptr + group, mask=real, other=0.0)[None, :]
    along = tl.load(means_ptr + n * groups + group, mask=real, other=0.0)[None, :]
    xhat = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) * stretch + offset
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
    dx = stretch * (_through(dy, xhat, weight, bias, SILU) - mean - xhat * along)
    if ADD:
        dx += tl.load(add_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _add(a_ptr, b_ptr, shift_ptr, out_ptr, total, c, B: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    mask = at < total
    a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + at % c, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (a + b + shift).to(out_ptr.dtype.element_ty), mask=mask)
