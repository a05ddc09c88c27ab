"""3D Gaussian splatting on a CPU, forward and backward, in numba. Same conventions as gsplat.rasterization.

Symbols
    N Gaussians, C cameras, W x H pixels; a *splat* is one Gaussian seen by one camera, index i = c N + g
    m          centre of a splat in pixels; pixel (row, column) has its centre at (column + 1/2, row + 1/2)
    Sigma      its 2x2 covariance (EWA): J V Sigma_3 V^T J^T + eps I, V the camera's rotation, J the Jacobian of the
               pinhole projection at the centre, eps = 0.3 pixels^2
    L          "whitening" [[p, q], [0, r]], 16 L^T L = Sigma^-1, p and r > 0
    (u, w)     L (m - pixel); the exponent of the Gaussian is  -d^T Sigma^-1 d / 2 = -8 (u^2 + w^2)
    alpha      min(opacity exp(-8 (u^2 + w^2)), 0.999), and 0 below 1/255
    T          transmittance of a pixel, front to back: T <- T (1 - alpha); a splat that would take T to 1e-4 or less
               is not drawn and closes the pixel. weight = alpha T, T before the splat
    picture    rgb = sum of weight (r, g, b) + T_end background,  alpha = sum of weight,  depth = sum of weight z / alpha
    v_x        gradient of the loss with respect to x

Algorithm
    project     every splat: m, L, z, and how far it reaches (where alpha falls to 1/255)
    tabulate    the visible ones in depth order, 48 bytes each, side by side
    list_pairs  for every 8x8 tile the splats whose ellipse touches it. This is a counting sort, and a stable one, so
                each list comes out front to back without being sorted itself
    blend       per tile, front to back; keeps T_end and the last splat drawn for each pixel
    unblend     per tile, back to front: T is recovered by division, and each (tile, splat) pair yields ten sums
    gather      adds up the pairs of each Gaussian
    unproject   takes that to means, quats and scales

Why it is built like this
    L instead of Sigma^-1: u^2 + w^2 cannot be negative, and a thin ellipse does not cancel in float32. For the same
    reason det Sigma is a sum of squares (Cauchy-Binet), not a d - b^2. The 8 is what the exponential below wants.
    Every pair owns its slot, a splat's slots are contiguous, and pixels belong to one tile: no atomics, no locks,
    and the same bits for any number of threads.
    A tile's pixels lie in ONE float32 array, field after field at constant distances, and the rows that a splat
    touches are one flat loop: the compiler proves that nothing overlaps and vectorises it, reductions included.
    Kernels release the GIL and take (share, shares, ...): any thread may do any share of the work. There are at most
    ``torch.get_num_threads()`` threads, the caller among them, and a thread that comes late costs nothing.

Compiled at the first call (``warm_up`` does it ahead) and cached on disk. float32 throughout; N = 0 is allowed.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd import Function

f4 = np.float32

TILE = 8
PIXELS = TILE * TILE
NEAR, FAR = f4(0.01), f4(1e10)
EPS_2D = f4(0.3)
MIN_ALPHA, MAX_ALPHA, MIN_T = f4(1 / 255), f4(0.999), f4(1e-4)
MAX_REACH = f4(3.33)  # gsplat's cap in standard deviations; alpha = 1/255 lies inside it for opacities up to 1
TINY = f4(1e-10)  # gsplat's least alpha when it divides the depth by it
ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)
SLACK = f4(1e-3)  # pixels by which extents grow, so that rounding never cuts off a pixel that alpha >= 1/255 admits

# A splat's row in the depth-ordered table
MX, MY, P, Q, R, OPACITY, TILT, REACH_Y, RED, GREEN, BLUE, DEPTH = range(12)
# A pair's ten sums, of v = dLoss/dexponent and of the blending weight times the picture's gradient
SUM_V, SUM_VU, SUM_VW, SUM_VUU, SUM_VUW, SUM_VWW, SUM_RED, SUM_GREEN, SUM_BLUE, SUM_DEPTH = range(10)

# No "nnan" or "ninf": the comparisons below must hold for non-finite input too.
FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "boundscheck": False}


def kernel(function: Callable) -> Any:
    """``njit`` with the disk cache, or without it where numba finds no folder that it can write."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        return njit(**OPTIONS)(function)


inline = njit(inline="always", **OPTIONS)

# exp(-x) on 0..3/4, interpolated at Chebyshev's points: relative error 3e-9
_SERIES = np.polynomial.chebyshev.Chebyshev.interpolate(lambda x: np.exp(-x), 6, domain=[0, 0.75])
E0, E1, E2, E3, E4, E5, E6 = (f4(c) for c in _SERIES.convert(kind=np.polynomial.Polynomial).coef)


@inline
def exp_minus_8(x):
    """exp(-8 x) without a branch, so that it vectorises. Exact enough to x = 3/4; constant (0.0025 < 1/255) beyond."""
    x = min(x, f4(0.75))
    y = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6)))))
    y = y * y
    y = y * y
    return y * y


# --- one Gaussian, one camera ---------------------------------------------------------------------------------------


@kernel
def rotation(quat, out):
    """Rotation matrix of a quaternion (wxyz) into out [3, 3]; returns 1 / |quat|."""
    w, x, y, z = quat[0], quat[1], quat[2], quat[3]
    scale = ONE / math.sqrt(max(w * w + x * x + y * y + z * z, TINY * TINY))  # a zero quaternion turns nothing
    w, x, y, z = w * scale, x * scale, y * scale, z * scale
    out[0, 0], out[0, 1], out[0, 2] = ONE - TWO * (y * y + z * z), TWO * (x * y - w * z), TWO * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = TWO * (x * y + w * z), ONE - TWO * (x * x + z * z), TWO * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = TWO * (x * z - w * y), TWO * (y * z + w * x), ONE - TWO * (x * x + y * y)
    return scale


@kernel
def to_camera(mean, view):
    """Coordinates (x, y, z) of a point in the camera's frame; view [4, 4]."""
    x = view[0, 0] * mean[0] + view[0, 1] * mean[1] + view[0, 2] * mean[2] + view[0, 3]
    y = view[1, 0] * mean[0] + view[1, 1] * mean[1] + view[1, 2] * mean[2] + view[1, 3]
    z = view[2, 0] * mean[0] + view[2, 1] * mean[1] + view[2, 2] * mean[2] + view[2, 3]
    return x, y, z


@kernel
def clamp_slope(slope, focal, centre, size):
    """x/z (or y/z) limited to 15 % of the picture beyond its border, where the linearised projection explodes."""
    margin = f4(0.15) * f4(size) / focal
    return min((f4(size) - centre) / focal + margin, max(-centre / focal - margin, slope))


@kernel
def jacobian(view, K, z, slope_x, slope_y, out):
    """J V into out [2, 3]: how a small step in the world moves the pixel."""
    fx, fy = K[0, 0] / z, K[1, 1] / z
    for j in range(3):
        out[0, j] = fx * (view[0, j] - slope_x * view[2, j])
        out[1, j] = fy * (view[1, j] - slope_y * view[2, j])


@kernel
def ellipse_axes(step, turn, out):
    """J V R into out [2, 3]: the Gaussian's own axes of unit length, seen in the picture."""
    for j in range(3):
        out[0, j] = step[0, 0] * turn[0, j] + step[0, 1] * turn[1, j] + step[0, 2] * turn[2, j]
        out[1, j] = step[1, 0] * turn[0, j] + step[1, 1] * turn[1, j] + step[1, 2] * turn[2, j]


@kernel
def project(share, shares, means, quats, scales, opacities, viewmats, Ks, width, height, means2d, whiten, depths, radii, reach):
    """Splats of this share: means2d, whiten (p, q, r), depths, radii, reach (tilt, y); all 0 where hidden.

    reach is for the tile lists: the ellipse alpha = 1/255 extends reach_y pixels up and down, and its rightmost point
    lies tilt pixels below its centre. radii are gsplat's: the half sides of its bounding box, rounded up.
    """
    count = means.shape[0]
    total = count * viewmats.shape[0]
    turn, step, axes = np.empty((3, 3), f4), np.empty((2, 3), f4), np.empty((2, 3), f4)
    for i in range(total * share // shares, total * (share + 1) // shares):
        c = i // count
        g = i - c * count
        view, K = viewmats[c], Ks[c]
        means2d[i, 0], means2d[i, 1] = ZERO, ZERO
        whiten[i, 0], whiten[i, 1], whiten[i, 2] = ZERO, ZERO, ZERO
        depths[i] = ZERO
        radii[i, 0], radii[i, 1] = 0, 0
        reach[i, 0], reach[i, 1] = ZERO, ZERO
        x, y, z = to_camera(means[g], view)
        opacity = opacities[g]
        if not (z >= NEAR and z <= FAR and opacity >= MIN_ALPHA):
            continue
        rotation(quats[g], turn)
        jacobian(view, K, z, clamp_slope(x / z, K[0, 0], K[0, 2], width), clamp_slope(y / z, K[1, 1], K[1, 2], height), step)
        ellipse_axes(step, turn, axes)
        a, b, d = EPS_2D, ZERO, EPS_2D  # Sigma = [[a, b], [b, d]]
        for j in range(3):
            axes[0, j] *= scales[g, j]
            axes[1, j] *= scales[g, j]
            a += axes[0, j] * axes[0, j]
            b += axes[0, j] * axes[1, j]
            d += axes[1, j] * axes[1, j]
        area01 = axes[0, 0] * axes[1, 1] - axes[1, 0] * axes[0, 1]
        area12 = axes[0, 1] * axes[1, 2] - axes[1, 1] * axes[0, 2]
        area20 = axes[0, 2] * axes[1, 0] - axes[1, 2] * axes[0, 0]
        det = EPS_2D * (a + d - EPS_2D) + area01 * area01 + area12 * area12 + area20 * area20
        spread = min(MAX_REACH, math.sqrt(TWO * math.log(opacity / MIN_ALPHA)))
        root_a, root_d, root_det = math.sqrt(a), math.sqrt(d), math.sqrt(det)
        radius_x, radius_y = np.ceil(spread * root_a), np.ceil(spread * root_d)
        px, py = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        if not (det < math.inf and radius_x > ZERO and radius_y > ZERO):
            continue
        if not (px + radius_x > 0 and px - radius_x < width and py + radius_y > 0 and py - radius_y < height):
            continue
        means2d[i, 0], means2d[i, 1] = px, py
        whiten[i, 0] = f4(0.25) * root_d / root_det
        whiten[i, 1] = f4(-0.25) * b / (root_d * root_det)
        whiten[i, 2] = f4(0.25) / root_d
        depths[i] = z
        radii[i, 0], radii[i, 1] = int(min(radius_x, f4(1e9))), int(min(radius_y, f4(1e9)))
        reach[i, 0], reach[i, 1] = spread * b / root_a, spread * root_d


@kernel
def unproject(
    share, shares, means, quats, scales, viewmats, Ks, width, height, radii, whiten,
    v_means2d, v_whiten, v_depths, v_means, v_quats, v_scales,
):  # fmt: skip
    """Gradients of means, quats and scales from those of means2d, whiten and depths; every camera of a Gaussian at once."""
    count = means.shape[0]
    turn, step, axes = np.empty((3, 3), f4), np.empty((2, 3), f4), np.empty((2, 3), f4)
    v_turn, v_step = np.empty((3, 3), f4), np.empty((2, 3), f4)
    for g in range(count * share // shares, count * (share + 1) // shares):
        unit = rotation(quats[g], turn)
        v_turn[:, :] = ZERO
        for j in range(3):
            v_means[g, j] = ZERO
            v_scales[g, j] = ZERO
        for c in range(viewmats.shape[0]):
            i = c * count + g
            if radii[i, 0] == 0:
                continue
            view, K = viewmats[c], Ks[c]
            x, y, z = to_camera(means[g], view)
            raw_x, raw_y = x / z, y / z
            slope_x, slope_y = clamp_slope(raw_x, K[0, 0], K[0, 2], width), clamp_slope(raw_y, K[1, 1], K[1, 2], height)
            jacobian(view, K, z, slope_x, slope_y, step)
            ellipse_axes(step, turn, axes)

            # G = dLoss/dSigma = -8 L^T M L, where M = sum v (u, w)(u, w)^T is read back from dLoss/dL
            p, q, r = whiten[i, 0], whiten[i, 1], whiten[i, 2]
            m_uu = p * v_whiten[i, 0] + q * v_whiten[i, 1]
            m_uw, m_ww = r * v_whiten[i, 1], r * v_whiten[i, 2]
            g_xx = f4(-8) * p * p * m_uu
            g_xy = f4(-8) * p * (q * m_uu + r * m_uw)
            g_yy = f4(-8) * (q * q * m_uu + TWO * q * r * m_uw + r * r * m_ww)

            v_step[:, :] = ZERO
            for j in range(3):
                s = scales[g, j]
                v_axis_x = TWO * s * (g_xx * axes[0, j] + g_xy * axes[1, j])
                v_axis_y = TWO * s * (g_xy * axes[0, j] + g_yy * axes[1, j])
                v_scales[g, j] += v_axis_x * axes[0, j] + v_axis_y * axes[1, j]
                for k in range(3):
                    v_turn[k, j] += s * (v_axis_x * step[0, k] + v_axis_y * step[1, k])
                    v_step[0, k] += s * v_axis_x * turn[k, j]
                    v_step[1, k] += s * v_axis_y * turn[k, j]

            fx, fy = K[0, 0] / z, K[1, 1] / z
            v_x, v_y = fx * v_means2d[i, 0], fy * v_means2d[i, 1]
            v_z = v_depths[i] - raw_x * v_x - raw_y * v_y
            v_slope_x, v_slope_y = ZERO, ZERO
            for k in range(3):
                v_z -= (v_step[0, k] * step[0, k] + v_step[1, k] * step[1, k]) / z
                v_slope_x -= fx * view[2, k] * v_step[0, k]
                v_slope_y -= fy * view[2, k] * v_step[1, k]
            if slope_x == raw_x:
                v_x += v_slope_x / z
                v_z -= v_slope_x * raw_x / z
            if slope_y == raw_y:
                v_y += v_slope_y / z
                v_z -= v_slope_y * raw_y / z
            for j in range(3):
                v_means[g, j] += view[0, j] * v_x + view[1, j] * v_y + view[2, j] * v_z

        w, x, y, z = quats[g, 0] * unit, quats[g, 1] * unit, quats[g, 2] * unit, quats[g, 3] * unit
        twist_x, twist_y, twist_z = v_turn[2, 1] - v_turn[1, 2], v_turn[0, 2] - v_turn[2, 0], v_turn[1, 0] - v_turn[0, 1]
        both_xy, both_yz, both_zx = v_turn[0, 1] + v_turn[1, 0], v_turn[1, 2] + v_turn[2, 1], v_turn[2, 0] + v_turn[0, 2]
        v_w = TWO * (x * twist_x + y * twist_y + z * twist_z)
        v_x = TWO * (w * twist_x + y * both_xy + z * both_zx - TWO * x * (v_turn[1, 1] + v_turn[2, 2]))
        v_y = TWO * (w * twist_y + x * both_xy + z * both_yz - TWO * y * (v_turn[0, 0] + v_turn[2, 2]))
        v_z = TWO * (w * twist_z + x * both_zx + y * both_yz - TWO * z * (v_turn[0, 0] + v_turn[1, 1]))
        along = v_w * w + v_x * x + v_y * y + v_z * z  # the length of a quaternion has no effect
        v_quats[g, 0] = (v_w - along * w) * unit
        v_quats[g, 1] = (v_x - along * x) * unit
        v_quats[g, 2] = (v_y - along * y) * unit
        v_quats[g, 3] = (v_z - along * z) * unit


# --- tile lists -----------------------------------------------------------------------------------------------------


@kernel
def tabulate(share, shares, order, means2d, whiten, depths, reach, opacities, colors, table):
    """Visible splats in depth order, side by side: table [M, 12] of order [M], their indices."""
    count = opacities.shape[0]
    total = order.shape[0]
    for m in range(total * share // shares, total * (share + 1) // shares):
        i = order[m]
        g = i % count
        table[m, MX], table[m, MY] = means2d[i, 0], means2d[i, 1]
        table[m, P], table[m, Q], table[m, R] = whiten[i, 0], whiten[i, 1], whiten[i, 2]
        table[m, OPACITY] = opacities[g]
        table[m, TILT], table[m, REACH_Y] = reach[i, 0], reach[i, 1]
        table[m, RED], table[m, GREEN], table[m, BLUE] = colors[g, 0], colors[g, 1], colors[g, 2]
        table[m, DEPTH] = depths[i]


@kernel
def list_pairs(share, shares, fill, order, count, table, width, height, cells, first, pairs):
    """One pass of a stable counting sort of (tile, splat) pairs by tile; a share is a range of depth ranks.

    Without fill: cells[share, tile] counts this share's pairs of a tile, first[i + 1] those of splat i.
    With fill: cells[share, tile] is where the share's next pair of that tile goes; pairs[there] = (rank of the splat,
    slot), the slot being the row in which the pair leaves its gradients: those of splat i begin at first[i].
    """
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    total = order.shape[0]
    for m in range(total * share // shares, total * (share + 1) // shares):
        i = order[m]
        base = i // count * across * down
        mx, my, p, q, r = table[m, MX], table[m, MY], table[m, P], table[m, Q], table[m, R]
        reach_y, tilt = table[m, REACH_Y] + SLACK, table[m, TILT]
        inverse_p = ONE / p
        level = r * reach_y * f4(1.0001)
        level *= level  # u^2 + w^2 on the ellipse alpha = 1/255
        top = int(max(np.ceil(my - reach_y - HALF), ZERO))
        bottom = int(min(np.floor(my + reach_y - HALF), f4(height - 1)))
        slot = first[i] if fill else 0
        for row in range(top // TILE, bottom // TILE + 1):
            low = f4(max(top, row * TILE)) + HALF - my
            high = f4(min(bottom, row * TILE + TILE - 1)) + HALF - my
            y = min(max(tilt, low), high)
            right = (math.sqrt(max(level - r * r * y * y, ZERO)) - q * y) * inverse_p
            y = min(max(-tilt, low), high)
            left = (-math.sqrt(max(level - r * r * y * y, ZERO)) - q * y) * inverse_p
            left = max(np.ceil(mx + left - HALF - SLACK), ZERO)
            right = min(np.floor(mx + right - HALF + SLACK), f4(width - 1))
            if not left <= right:
                continue
            for column in range(int(left) // TILE, int(right) // TILE + 1):
                tile = base + row * across + column
                place = cells[share, tile]
                cells[share, tile] = place + 1
                if fill:
                    pairs[place, 0], pairs[place, 1] = m, slot
                slot += 1
        if not fill:
            first[i + 1] = slot


# --- pixels ---------------------------------------------------------------------------------------------------------

# Fields of a tile's scratch array: value k of pixel i (row-major) lies at k * PIXELS + i
T_, LAST_, X_, Y_, RED_, GREEN_, BLUE_, DEPTH_, SUM_ = (k * PIXELS for k in range(9))
BEHIND_ = SUM_  # the way back has B where the way out had the sum of weights
SCRATCH = 9 * PIXELS


@inline
def touched_rows(my, reach_y):
    """First and last row of a tile (its top edge at 0) that a splat reaches; first > last for none."""
    top = max(np.ceil(my - reach_y - SLACK - HALF), ZERO)
    bottom = min(np.floor(my + reach_y + SLACK - HALF), f4(TILE - 1))
    return int(top), int(bottom)


@kernel
def blend(share, shares, tiles, starts, pairs, table, background, rgb, depth, alpha, transmittance, last):
    """Draws this share's tiles: rgb [C, H, W, 3], depth and alpha [C, H, W]; T and the last splat for ``unblend``.

    A closed pixel (T would fall to 1e-4) and a pixel outside the picture carry -T in the T field: one sign instead
    of a mask.
    """
    height, width = alpha.shape[1], alpha.shape[2]
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    field = np.empty(SCRATCH, f4)
    for n in range(share, tiles.shape[0], shares):
        tile = tiles[n]
        c = tile // (across * down)
        top = (tile - c * across * down) // across * TILE
        left = tile % across * TILE
        field[:] = ZERO
        for i in range(PIXELS):
            x, y = i % TILE, i // TILE
            field[T_ + i] = ONE if left + x < width and top + y < height else -ONE
            field[LAST_ + i] = -ONE
            field[X_ + i] = f4(x) + HALF
            field[Y_ + i] = f4(y) + HALF
        start = starts[tile]
        for k in range(start, starts[tile + 1]):
            m = pairs[k, 0]
            mx, my = table[m, MX] - f4(left), table[m, MY] - f4(top)
            p, q, r, opacity = table[m, P], table[m, Q], table[m, R], table[m, OPACITY]
            red, green, blue, z = table[m, RED], table[m, GREEN], table[m, BLUE], table[m, DEPTH]
            first_row, last_row = touched_rows(my, table[m, REACH_Y])
            index = f4(k - start)
            v = field[first_row * TILE :]
            for i in range((last_row + 1 - first_row) * TILE):
                dy = my - v[Y_ + i]
                u, w = p * (mx - v[X_ + i]) + q * dy, r * dy
                a = min(opacity * exp_minus_8(u * u + w * w), MAX_ALPHA)
                before = v[T_ + i]
                weight = a * max(before, ZERO) if a >= MIN_ALPHA else ZERO
                after = max(before, ZERO) - weight
                closed = after <= MIN_T
                weight = ZERO if closed else weight
                v[T_ + i] = -abs(before) if closed else after
                v[LAST_ + i] = index if weight > ZERO else v[LAST_ + i]
                v[RED_ + i] += weight * red
                v[GREEN_ + i] += weight * green
                v[BLUE_ + i] += weight * blue
                v[DEPTH_ + i] += weight * z
                v[SUM_ + i] += weight
            if k & 7 == 7:
                open_T = -ONE
                for i in range(PIXELS):
                    open_T = max(open_T, field[T_ + i])
                if open_T < ZERO:
                    break
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                i, py, px = y * TILE + x, top + y, left + x
                remaining = abs(field[T_ + i])
                rgb[c, py, px, 0] = field[RED_ + i] + remaining * background[c, 0]
                rgb[c, py, px, 1] = field[GREEN_ + i] + remaining * background[c, 1]
                rgb[c, py, px, 2] = field[BLUE_ + i] + remaining * background[c, 2]
                alpha[c, py, px] = field[SUM_ + i]
                depth[c, py, px] = field[DEPTH_ + i] / max(field[SUM_ + i], TINY)
                transmittance[c, py, px] = remaining
                last[c, py, px] = int(field[LAST_ + i])


@kernel
def unblend(
    share, shares, tiles, starts, pairs, table, background, depth, alpha, transmittance, last,
    v_rgb, v_depth, v_alpha, sums,
):  # fmt: skip
    """Ten sums over the pixels of every pair of this share's tiles, back to front, into sums [slots, 10].

    A splat's gain is dLoss/dweight. With B = sum over the splats behind of weight gain, plus T_end dLoss/dT_end:
    dLoss/dalpha = T gain - B / (1 - alpha).
    """
    height, width = last.shape[1], last.shape[2]
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    field = np.empty(SCRATCH, f4)
    for n in range(share, tiles.shape[0], shares):
        tile = tiles[n]
        c = tile // (across * down)
        top = (tile - c * across * down) // across * TILE
        left = tile % across * TILE
        field[:] = ZERO
        deepest = -1
        for i in range(PIXELS):
            x, y = i % TILE, i // TILE
            field[T_ + i] = ONE
            field[LAST_ + i] = -ONE
            field[X_ + i] = f4(x) + HALF
            field[Y_ + i] = f4(y) + HALF
            if left + x < width and top + y < height:
                py, px = top + y, left + x
                field[T_ + i] = transmittance[c, py, px]
                field[LAST_ + i] = f4(last[c, py, px])
                deepest = max(deepest, last[c, py, px])
                red, green, blue = v_rgb[c, py, px, 0], v_rgb[c, py, px, 1], v_rgb[c, py, px, 2]
                v_sum_z = v_depth[c, py, px] / max(alpha[c, py, px], TINY)
                v_T = red * background[c, 0] + green * background[c, 1] + blue * background[c, 2]
                v_T += v_sum_z * depth[c, py, px] - v_alpha[c, py, px]  # alpha = 1 - T_end
                field[RED_ + i], field[GREEN_ + i], field[BLUE_ + i], field[DEPTH_ + i] = red, green, blue, v_sum_z
                field[BEHIND_ + i] = transmittance[c, py, px] * v_T
        start, end = starts[tile], starts[tile + 1]
        for k in range(start + deepest + 1, end):
            sums[pairs[k, 1], :] = ZERO
        for k in range(start + deepest, start - 1, -1):
            m = pairs[k, 0]
            mx, my = table[m, MX] - f4(left), table[m, MY] - f4(top)
            p, q, r, opacity = table[m, P], table[m, Q], table[m, R], table[m, OPACITY]
            red, green, blue, z = table[m, RED], table[m, GREEN], table[m, BLUE], table[m, DEPTH]
            first_row, last_row = touched_rows(my, table[m, REACH_Y])
            index = f4(k - start)
            s_v, s_u, s_w, s_uu, s_uw, s_ww = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            s_red, s_green, s_blue, s_depth = ZERO, ZERO, ZERO, ZERO
            v = field[first_row * TILE :]
            for i in range((last_row + 1 - first_row) * TILE):
                dy = my - v[Y_ + i]
                u, w = p * (mx - v[X_ + i]) + q * dy, r * dy
                peak = opacity * exp_minus_8(u * u + w * w)
                a = min(peak, MAX_ALPHA)
                a = a if a >= MIN_ALPHA else ZERO
                a = a if index <= v[LAST_ + i] else ZERO
                inverse = ONE / (ONE - a)
                before = v[T_ + i] * inverse
                v[T_ + i] = before
                weight = a * before
                v_red, v_green, v_blue, v_z = v[RED_ + i], v[GREEN_ + i], v[BLUE_ + i], v[DEPTH_ + i]
                gain = red * v_red + green * v_green + blue * v_blue + z * v_z
                behind = v[BEHIND_ + i]
                v[BEHIND_ + i] = behind + weight * gain
                v_exponent = a * (before * gain - inverse * behind)
                v_exponent = v_exponent if peak <= MAX_ALPHA else ZERO
                v_u, v_w = v_exponent * u, v_exponent * w
                s_v += v_exponent
                s_u += v_u
                s_w += v_w
                s_uu += v_u * u
                s_uw += v_u * w
                s_ww += v_w * w
                s_red += weight * v_red
                s_green += weight * v_green
                s_blue += weight * v_blue
                s_depth += weight * v_z
            slot = pairs[k, 1]
            sums[slot, SUM_V], sums[slot, SUM_VU], sums[slot, SUM_VW] = s_v, s_u, s_w
            sums[slot, SUM_VUU], sums[slot, SUM_VUW], sums[slot, SUM_VWW] = s_uu, s_uw, s_ww
            sums[slot, SUM_RED], sums[slot, SUM_GREEN], sums[slot, SUM_BLUE] = s_red, s_green, s_blue
            sums[slot, SUM_DEPTH] = s_depth


@kernel
def gather(share, shares, first, whiten, opacities, sums, v_means2d, v_whiten, v_depths, v_opacities, v_colors):
    """Adds up the pairs of this share's Gaussians: gradients per splat, and per Gaussian those of opacity and colour.

    The exponent is -8 (u^2 + w^2), so v reaches u as -16 v u; u = p dx + q dy and w = r dy give the rest.
    """
    count = v_opacities.shape[0]
    for g in range(count * share // shares, count * (share + 1) // shares):
        v_opacity, v_red, v_green, v_blue = ZERO, ZERO, ZERO, ZERO
        for c in range(v_depths.shape[0] // count):
            i = c * count + g
            if first[i] == first[i + 1]:
                v_means2d[i, 0], v_means2d[i, 1], v_depths[i] = ZERO, ZERO, ZERO
                v_whiten[i, 0], v_whiten[i, 1], v_whiten[i, 2] = ZERO, ZERO, ZERO
                continue
            v, v_u, v_w, v_uu, v_uw, v_ww, v_z = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            for slot in range(first[i], first[i + 1]):
                v += sums[slot, SUM_V]
                v_u += sums[slot, SUM_VU]
                v_w += sums[slot, SUM_VW]
                v_uu += sums[slot, SUM_VUU]
                v_uw += sums[slot, SUM_VUW]
                v_ww += sums[slot, SUM_VWW]
                v_red += sums[slot, SUM_RED]
                v_green += sums[slot, SUM_GREEN]
                v_blue += sums[slot, SUM_BLUE]
                v_z += sums[slot, SUM_DEPTH]
            p, q, r = whiten[i, 0], whiten[i, 1], whiten[i, 2]
            v_means2d[i, 0], v_means2d[i, 1] = f4(-16) * p * v_u, f4(-16) * (q * v_u + r * v_w)
            v_whiten[i, 0] = f4(-16) * (v_uu - q / r * v_uw) / p  # dx = (u - q dy) / p, dy = w / r
            v_whiten[i, 1], v_whiten[i, 2] = f4(-16) * v_uw / r, f4(-16) * v_ww / r
            v_depths[i] = v_z
            v_opacity += v / opacities[g]
        v_opacities[g] = v_opacity
        v_colors[g, 0], v_colors[g, 1], v_colors[g, 2] = v_red, v_green, v_blue


# --- torch ----------------------------------------------------------------------------------------------------------

GRAIN = 1024  # splats or pairs that are worth handing to another thread

_pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="rasterize")  # starts threads when used


def _run(function: Any, shares: int, *args: Any) -> None:
    """``function(share, shares, *args)`` for every share, whoever is free; returns when all are done."""
    todo = deque(range(shares))

    def work() -> None:
        while todo:
            try:
                share = todo.popleft()
            except IndexError:  # another thread has just taken the last one
                return
            function(share, shares, *args)

    helpers = []
    with suppress(RuntimeError):  # a closing interpreter takes no more tasks; the caller can do every share
        for _ in range(min(shares, torch.get_num_threads()) - 1):
            helpers.append(_pool.submit(work))
    work()
    for helper in helpers:
        if not helper.cancel():  # the pool may be busy for others; then the work was done without it
            helper.result()


def _shares(work: int, per_thread: int = 4) -> int:
    """How many shares: several per thread, so that none waits long for another."""
    return max(1, min(per_thread * torch.get_num_threads(), work // GRAIN)) if torch.get_num_threads() > 1 else 1


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmats, Ks, width, height):
        cameras, count = len(viewmats), len(means)
        total = cameras * count
        means2d, whiten, depths = np.empty((total, 2), f4), np.empty((total, 3), f4), np.empty(total, f4)
        radii, reach = np.empty((total, 2), np.int32), np.empty((total, 2), f4)
        inputs = [_array(t) for t in (means, quats, scales, opacities, viewmats, Ks)]
        _run(project, _shares(total), *inputs, width, height, means2d, whiten, depths, radii, reach)
        ctx.save_for_backward(means, quats, scales, viewmats, Ks)
        ctx.rest = width, height, radii, whiten
        outputs = [torch.from_numpy(a).view(cameras, count, *a.shape[1:]) for a in (means2d, whiten, depths, radii, reach)]
        ctx.mark_non_differentiable(outputs[3], outputs[4])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads):
        inputs = [_array(t) for t in ctx.saved_tensors]
        total = len(ctx.rest[2])
        outer = [_array(g).reshape(total, *g.shape[2:]) for g in grads[:3]]
        inner = [np.empty_like(a) for a in inputs[:3]]
        _run(unproject, _shares(total), *inputs, *ctx.rest, *outer, *inner)
        return *(torch.from_numpy(a) for a in inner), None, None, None, None, None


class _Blend(Function):
    @staticmethod
    def forward(ctx: Any, means2d, whiten, depths, opacities, colors, background, radii, reach, width, height):
        cameras, count = depths.shape
        splats = [_array(t).reshape(cameras * count, *t.shape[2:]) for t in (means2d, whiten, depths, reach)]
        order, table = _tabulate(splats, _array(radii), _array(opacities), _array(colors))
        tiles, starts, pairs, first = _tile_lists(order, table, cameras, count, width, height)
        shape = (cameras, height, width)
        rgb, depth, alpha = (torch.from_numpy(np.empty(s, f4)) for s in ((*shape, 3), shape, shape))
        transmittance, last = np.empty(shape, f4), np.empty(shape, np.int32)
        picture = (_array(background), depth.numpy(), alpha.numpy(), transmittance, last)
        ctx.shares = _shares(len(pairs))
        _run(blend, ctx.shares, tiles, starts, pairs, table, picture[0], rgb.numpy(), *picture[1:])
        ctx.save_for_backward(background, depth, alpha, whiten, opacities)
        ctx.lists = tiles, starts, pairs, table
        ctx.pixels = transmittance, last
        ctx.first = first
        ctx.shape = cameras, count
        return rgb, depth, alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads):
        cameras, count = ctx.shape
        total = cameras * count
        sums = np.empty((len(ctx.lists[2]), 10), f4)
        *picture, whiten, opacities = (_array(t) for t in ctx.saved_tensors)
        _run(unblend, ctx.shares, *ctx.lists, *picture, *ctx.pixels, *(_array(v) for v in grads), sums)
        v_means2d, v_whiten, v_depths = np.empty((total, 2), f4), np.empty((total, 3), f4), np.empty(total, f4)
        v_opacities, v_colors = np.empty(count, f4), np.empty((count, 3), f4)
        splats = ctx.first, whiten.reshape(total, 3), opacities
        _run(gather, _shares(total), *splats, sums, v_means2d, v_whiten, v_depths, v_opacities, v_colors)
        per_splat = [torch.from_numpy(a).view(cameras, count, *a.shape[1:]) for a in (v_means2d, v_whiten, v_depths)]
        v_background = None
        if ctx.needs_input_grad[5]:
            v_background = torch.einsum("chw,chwk->ck", torch.from_numpy(ctx.pixels[0]), grads[0])
        per_gaussian = torch.from_numpy(v_opacities), torch.from_numpy(v_colors)
        return *per_splat, *per_gaussian, v_background, None, None, None, None


def _tabulate(splats: list[np.ndarray], radii: np.ndarray, opacities: np.ndarray, colors: np.ndarray):
    """Indices [M] of the visible splats in depth order, camera after camera, and their table [M, 12]."""
    depths = splats[2]
    # A positive float's bits order as it does; with the index below them keys are unique, so the order is too.
    keys = depths.view(np.uint32).astype(np.uint64) << np.uint64(32) | np.arange(len(depths), dtype=np.uint64)
    visible = radii[..., 0] > 0
    sorted_keys = [np.sort(k[v]) for k, v in zip(keys.reshape(visible.shape), visible, strict=True)]
    order = (np.concatenate(sorted_keys) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    table = np.empty((len(order), 12), f4)
    _run(tabulate, _shares(len(order)), order, *splats, opacities, colors, table)
    return order, table


def _tile_lists(order: np.ndarray, table: np.ndarray, cameras: int, count: int, width: int, height: int):
    """Tiles heaviest first, starts [tiles + 1] of their lists in pairs [K, 2], first [C N + 1] slot of each splat."""
    tile_count = cameras * -(-width // TILE) * -(-height // TILE)
    shares = _shares(len(order), per_thread=1)
    cells, first = np.zeros((shares, tile_count), np.int64), np.zeros(cameras * count + 1, np.int64)
    none = np.empty((0, 2), np.int32)
    _run(list_pairs, shares, False, order, count, table, width, height, cells, first, none)
    np.cumsum(first, out=first)
    ends = np.cumsum(cells.T).reshape(tile_count, shares).T  # tile by tile, and in a tile share by share
    starts = np.concatenate([[0], ends[-1]])
    cells = np.ascontiguousarray(ends - cells)
    pairs = np.empty((starts[-1], 2), np.int32)
    _run(list_pairs, shares, True, order, count, table, width, height, cells, first, pairs)
    return np.argsort(starts[:-1] - starts[1:], kind="stable"), starts, pairs, first


def rasterize(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz, any length but 0
    scales: Tensor,  # [N, 3] > 0
    opacities: Tensor,  # [N] in 0..1
    colors: Tensor,  # [N, 3]
    viewmats: Tensor,  # [C, 4, 4] world to camera, no gradient
    Ks: Tensor,  # [C, 3, 3] pixels, no gradient
    width: int,
    height: int,
    background: Tensor,  # [C, 3]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Colour [C, H, W, 3], expected depth [C, H, W], alpha [C, H, W], and gsplat's info."""
    means2d, whiten, depths, radii, reach = _Project.apply(means, quats, scales, opacities, viewmats, Ks, width, height)
    rgb, depth, alpha = _Blend.apply(means2d, whiten, depths, opacities, colors, background, radii, reach, width, height)
    info = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
        "camera_ids": None,  # only gsplat's packed layout has these two
        "gaussian_ids": None,
    }
    return rgb, depth, alpha, info


def warm_up() -> None:
    """Compile every kernel (or load it from the disk cache) by drawing one Gaussian. Seconds the first time."""
    means = torch.tensor([[0.0, 0.0, 2.0]], requires_grad=True)
    quats, scales, ones = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.full((1, 3), 0.1), torch.ones(1, 3)
    K = torch.tensor([[[8.0, 0.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]]])
    rgb, depth, _, _ = rasterize(means, quats, scales, ones[:, 0], ones, torch.eye(4)[None], K, TILE, TILE, ones)
    (rgb.sum() + depth.sum()).backward()
