"""Sphere tracing of solids: one set of scalar functions, compiled by numba for a CPU and, in training, for a CUDA card.

A ray marches by the distance to the nearest solid. Where it meets one, the surface is coloured by its finish and lit by
a lamp from above, a headlight and ambient light that fades in creases, so that shape shows from every side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

from dreamerxl.miniature.solids import (
    BOX,
    CAPSULE,
    CENTER,
    CONE,
    ELLIPSOID,
    FINISH,
    FIRST,
    GLOSSY,
    GOLDEN,
    HIGH,
    HOLLOW,
    KIND,
    LOW,
    RADIUS,
    ROTATION,
    ROUNDING,
    SECOND,
    SIZE,
    SPOTTED,
    STRIPED,
    TORUS,
    WOODEN,
)

f32 = np.float32  # a plain literal would turn everything it touches into double precision
ZERO, HALF, ONE, TWO = f32(0), f32(0.5), f32(1), f32(2)
STEPS = 64
REACH = f32(1.45)  # marching starts and ends this far from the origin
HIT = f32(0.004)  # a ray closer than this to a surface has met it
CAREFUL = f32(0.9)  # share of the distance that a step takes: some distances are only bounds
LONGEST = f32(0.5)  # step
TINY = f32(1e-9)
LAMP = (f32(0.301), f32(0.200), f32(0.932))


@njit(fastmath=True)
def solid_distance(table, b, i, x, y, z):
    """Distance of a point to solid i of scene b, negative inside."""
    dx, dy, dz = x - table[b, i, CENTER], y - table[b, i, CENTER + 1], z - table[b, i, CENTER + 2]
    u = table[b, i, ROTATION] * dx + table[b, i, ROTATION + 1] * dy + table[b, i, ROTATION + 2] * dz
    v = table[b, i, ROTATION + 3] * dx + table[b, i, ROTATION + 4] * dy + table[b, i, ROTATION + 5] * dz
    w = table[b, i, ROTATION + 6] * dx + table[b, i, ROTATION + 7] * dy + table[b, i, ROTATION + 8] * dz
    p, q, r = table[b, i, SIZE], table[b, i, SIZE + 1], table[b, i, SIZE + 2]
    kind = int(table[b, i, KIND])
    cut = w
    if kind == ELLIPSOID:
        u, v, w = u / p, v / q, w / r
        k0 = math.sqrt(u * u + v * v + w * w)
        u, v, w = u / p, v / q, w / r
        d = k0 * (k0 - ONE) / (math.sqrt(u * u + v * v + w * w) + TINY)  # the first-order bound
    elif kind == BOX:
        u, v, w = abs(u) - p, abs(v) - q, abs(w) - r
        inside = min(max(u, max(v, w)), ZERO)
        u, v, w = max(u, ZERO), max(v, ZERO), max(w, ZERO)
        d = math.sqrt(u * u + v * v + w * w) + inside
    elif kind == CONE:
        slope = (q - p) / (TWO * r)
        side = (math.sqrt(u * u + v * v) - (p + q) * HALF - slope * w) / math.sqrt(ONE + slope * slope)
        cap = abs(w) - r
        inside = min(max(side, cap), ZERO)
        side, cap = max(side, ZERO), max(cap, ZERO)
        d = math.sqrt(side * side + cap * cap) + inside
    elif kind == TORUS:
        around = math.sqrt(u * u + v * v) - p
        w = w / r
        d = math.sqrt(around * around + w * w) - q
        cut = v
    elif kind == CAPSULE:
        along = min(max(w, -r), r)
        w -= along
        d = math.sqrt(u * u + v * v + w * w) - p - (q - p) * HALF * (along / r + ONE)
    else:  # PRISM
        slope = TWO * r / q
        side = (w + slope * abs(v) - r) / math.sqrt(ONE + slope * slope)
        d = max(side, max(-r - w, abs(u) - p))
    d -= table[b, i, ROUNDING]
    if table[b, i, HOLLOW] > ZERO:
        d = max(d, -(d + table[b, i, HOLLOW]))
    return max(d, max(table[b, i, LOW] - cut, cut - table[b, i, HIGH]))


@njit(fastmath=True)
def nearest_solid(table, count, b, x, y, z):
    """Distance to the nearest solid of scene b, and which it is."""
    best, which = f32(9), 0
    for i in range(count):
        dx, dy, dz = x - table[b, i, CENTER], y - table[b, i, CENTER + 1], z - table[b, i, CENTER + 2]
        reach = best + table[b, i, RADIUS]
        if reach > ZERO and dx * dx + dy * dy + dz * dz < reach * reach:
            d = solid_distance(table, b, i, x, y, z)
            if d < best:
                best, which = d, i
    return best, which


@njit(fastmath=True)
def fract(x):
    return x - math.floor(x)


@njit(fastmath=True)
def pattern(finish, x, y, z):
    """Share of the second colour at a point of the surface."""
    if finish == STRIPED:
        phase = fract((0.86 * z + 0.5 * y) / 0.26)
        return 1.0 if phase < 0.42 else 0.0
    if finish == SPOTTED:  # balls on a body-centred lattice, cut by the surface
        step = 0.30
        a, b, c = fract(x / step + 0.5) - 0.5, fract(y / step + 0.5) - 0.5, fract(z / step + 0.5) - 0.5
        first = a * a + b * b + c * c
        a, b, c = fract(x / step) - 0.5, fract(y / step) - 0.5, fract(z / step) - 0.5
        return 1.0 if min(first, a * a + b * b + c * c) < 0.075 else 0.0
    if finish == WOODEN:
        ring = math.sqrt((x + 0.21) ** 2 + (y - 0.13 + 0.12 * z) ** 2) * 9.0 + 0.5 * math.sin(3.1 * z + 2.0 * x)
        grain = fract(ring)
        return max(0.0, 1.0 - abs(grain - 0.5) * 3.2)
    return 0.0


@njit(fastmath=True)
def shade(table, count, b, which, x, y, z, rx, ry, rz):
    """Colour of the surface of a solid at a point, seen along a ray."""
    e = f32(0.0015)  # the gradient of the distance by four samples in a tetrahedron
    d1, _ = nearest_solid(table, count, b, x + e, y - e, z - e)
    d2, _ = nearest_solid(table, count, b, x - e, y - e, z + e)
    d3, _ = nearest_solid(table, count, b, x - e, y + e, z - e)
    d4, _ = nearest_solid(table, count, b, x + e, y + e, z + e)
    nx, ny, nz = d1 - d2 - d3 + d4, -d1 - d2 + d3 + d4, -d1 + d2 - d3 + d4
    size = ONE / (math.sqrt(nx * nx + ny * ny + nz * nz) + TINY)
    nx, ny, nz = nx * size, ny * size, nz * size
    h = f32(0.07)
    near, _ = nearest_solid(table, count, b, x + h * nx, y + h * ny, z + h * nz)
    h = f32(0.20)
    wide, _ = nearest_solid(table, count, b, x + h * nx, y + h * ny, z + h * nz)
    crease = 1.0 - 0.30 * min(max(1.0 - near / 0.07, 0.0), 1.0) - 0.30 * min(max(1.0 - wide / 0.20, 0.0), 1.0)
    lamp = max(nx * LAMP[0] + ny * LAMP[1] + nz * LAMP[2], 0.0)
    facing = max(-(nx * rx + ny * ry + nz * rz), 0.0)
    light = (0.50 + 0.10 * nz) * crease + 0.34 * lamp + 0.22 * facing
    finish = int(table[b, which, FINISH])
    share = pattern(finish, x, y, z)
    red = table[b, which, FIRST] * (1.0 - share) + table[b, which, SECOND] * share
    green = table[b, which, FIRST + 1] * (1.0 - share) + table[b, which, SECOND + 1] * share
    blue = table[b, which, FIRST + 2] * (1.0 - share) + table[b, which, SECOND + 2] * share
    gleam = 0.0
    if finish == GLOSSY or finish == GOLDEN:  # noqa: SIM109 - mirror the ray, look at a bright band above
        mirror = 2.0 * (nx * rx + ny * ry + nz * rz)
        sx, sy, sz = rx - mirror * nx, ry - mirror * ny, rz - mirror * nz
        toward = max(sx * LAMP[0] + sy * LAMP[1] + sz * LAMP[2], 0.0)
        gleam = 0.75 * toward**12
        if finish == GOLDEN:
            light = light * (0.62 + 0.55 * min(max(sz * 1.6 + 0.3, 0.0), 1.0))
            gleam = 0.55 * toward**6
    return red * light + gleam, green * light + gleam, blue * light + 0.85 * gleam


@njit(fastmath=True)
def trace(table, count, b, ox, oy, oz, rx, ry, rz, ground, shadow):
    """One ray: (red, green, blue, distance travelled), or distance 0 and what the background is multiplied by."""
    along = -(ox * rx + oy * ry + oz * rz)
    miss = ox * ox + oy * oy + oz * oz - along * along
    if miss < REACH * REACH:
        half = math.sqrt(REACH * REACH - miss)
        t, end = max(along - half, ZERO), along + half
        for _ in range(STEPS):
            x, y, z = ox + t * rx, oy + t * ry, oz + t * rz
            d, which = nearest_solid(table, count, b, x, y, z)
            if d < HIT:
                red, green, blue = shade(table, count, b, which, x, y, z, rx, ry, rz)
                return f32(min(red, 1.0)), f32(min(green, 1.0)), f32(min(blue, 1.0)), t
            t += CAREFUL * min(d, LONGEST)
            if t > end:
                break
    light = ONE
    if shadow > ZERO and rz < -0.05:
        t = (ground - oz) / rz
        x, y = ox + t * rx, oy + t * ry
        d, _ = nearest_solid(table, count, b, x, y, ground)
        light = f32(1.0 - shadow * math.exp(-7.0 * max(d, ZERO)))
    return light, light, light, ZERO


@njit(parallel=True, cache=True)
def trace_on_cpu(table, counts, origins, rotation, focal, ground, shadow, background, size, color, depth):
    """Fill color [B, size, size, 3] and depth [B, size, size]: every ray of every scene."""
    for row in prange(len(table) * size):
        b, v = row // size, row % size
        for u in range(size):
            trace_pixel(table, counts, origins, rotation, focal, ground, shadow, background, size, color, depth, b, v, u)


@njit(fastmath=True)
def trace_pixel(table, counts, origins, rotation, focal, ground, shadow, background, size, color, depth, b, v, u):
    """One ray of one scene. Cameras look along their +z, x to the right, y down, the centre in the middle."""
    cx, cy = f32(u + 0.5 - 0.5 * size) / focal[b], f32(v + 0.5 - 0.5 * size) / focal[b]
    norm = math.sqrt(ONE + cx * cx + cy * cy)
    rx = (rotation[b, 0, 0] * cx + rotation[b, 1, 0] * cy + rotation[b, 2, 0]) / norm
    ry = (rotation[b, 0, 1] * cx + rotation[b, 1, 1] * cy + rotation[b, 2, 1]) / norm
    rz = (rotation[b, 0, 2] * cx + rotation[b, 1, 2] * cy + rotation[b, 2, 2]) / norm
    ox, oy, oz = origins[b, 0], origins[b, 1], origins[b, 2]
    red, green, blue, t = trace(table, counts[b], b, ox, oy, oz, rx, ry, rz, ground[b], shadow[b])
    if t > ZERO:
        color[b, v, u, 0], color[b, v, u, 1], color[b, v, u, 2] = red, green, blue
    else:
        color[b, v, u, 0], color[b, v, u, 1] = background[b, 0] * red, background[b, 1] * green
        color[b, v, u, 2] = background[b, 2] * blue
    depth[b, v, u] = t / norm


def make_cuda_kernel() -> Any:
    """The same tracing as a CUDA kernel (numba-cuda), one thread a ray; only training needs it."""
    from numba import cuda

    @cuda.jit(fastmath=True)
    def trace_on_cuda(table, counts, origins, rotation, focal, ground, shadow, background, size, color, depth):
        index = cuda.grid(1)  # pyright: ignore[reportCallIssue]
        if index < len(table) * size * size:
            b, row, column = index // (size * size), index // size % size, index % size
            trace_pixel(table, counts, origins, rotation, focal, ground, shadow, background, size, color, depth, b, row, column)

    return trace_on_cuda


_cuda_kernel: Any = None


def trace_all(arrays: tuple[Any, ...], size: int, color: Any, depth: Any, on_cuda: bool) -> None:
    """Trace every ray of every scene into ``color`` and ``depth``; NumPy arrays, or tensors on a CUDA card."""
    global _cuda_kernel
    if not on_cuda:
        trace_on_cpu(*arrays, size, color, depth)  # pyright: ignore[reportCallIssue]
        return
    from numba import cuda

    _cuda_kernel = _cuda_kernel or make_cuda_kernel()
    views = [cuda.as_cuda_array(array) for array in (*arrays, color, depth)]
    threads = 128
    blocks = -(-int(np.prod(depth.shape)) // threads)
    _cuda_kernel[blocks, threads](*views[:-2], size, *views[-2:])
