"""Signed distances of simple solids, for sphere tracing.

A point is (x, y, z), three tensors [B, M]: B scenes of M samples. Centres, radii and other measures are floats or
tensors [B, 1]. Every function returns the distance [B, M], negative inside; where a formula only bounds the distance
it never overshoots by more than the tracer's step factor allows. Everything is pointwise, so a compiler fuses a whole
object into one kernel.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

Measure = float | Tensor
Point = tuple[Tensor, Tensor, Tensor]
Triple = tuple[Measure, Measure, Measure]


def length(*components: Tensor) -> Tensor:
    """Euclidean length, kept away from zero so that a division by it is finite."""
    return torch.sqrt(functools.reduce(torch.add, (c * c for c in components)) + 1e-12)


def shift(p: Point, center: Triple) -> Point:
    """The point as seen from ``center``."""
    return p[0] - center[0], p[1] - center[1], p[2] - center[2]


def ellipsoid(p: Point, center: Triple, radii: Triple) -> Tensor:
    """Axis-aligned ellipsoid, by the first-order bound k0 (k0 - 1) / k1."""
    x, y, z = shift(p, center)
    k0 = length(x / radii[0], y / radii[1], z / radii[2])
    k1 = length(x / radii[0] ** 2, y / radii[1] ** 2, z / radii[2] ** 2)
    return k0 * (k0 - 1) / k1


def sphere(p: Point, center: Triple, radius: Measure) -> Tensor:
    """Ball."""
    return length(*shift(p, center)) - radius


def box(p: Point, center: Triple, half: Triple, rounding: float = 0.02) -> Tensor:
    """Axis-aligned box with rounded edges; ``half`` is half its size without the rounding."""
    x, y, z = shift(p, center)
    x, y, z = x.abs() - half[0], y.abs() - half[1], z.abs() - half[2]
    outside = length(x.clamp_min(0), y.clamp_min(0), z.clamp_min(0))
    return outside + torch.maximum(x, torch.maximum(y, z)).clamp_max(0) - rounding


def cylinder(p: Point, center: Triple, radius: Measure, half_height: Measure, rounding: float = 0.01) -> Tensor:
    """Upright cylinder with rounded edges."""
    x, y, z = shift(p, center)
    side, cap = length(x, y) - radius, z.abs() - half_height
    return torch.maximum(side, cap).clamp_max(0) + length(side.clamp_min(0), cap.clamp_min(0)) - rounding


def cone(p: Point, center: Triple, bottom: Measure, top: Measure, half_height: Measure) -> Tensor:
    """Upright capped cone: radius ``bottom`` below, ``top`` above."""
    x, y, z = shift(p, center)
    share = (z / half_height).clamp(-1, 1) * 0.5 + 0.5
    side, cap = (length(x, y) - (bottom + (top - bottom) * share)) * 0.8, z.abs() - half_height
    return torch.maximum(side, cap).clamp_max(0) + length(side.clamp_min(0), cap.clamp_min(0))


def torus(p: Point, center: Triple, ring: Measure, tube: Measure) -> Tensor:
    """Flat-lying torus."""
    x, y, z = shift(p, center)
    return length(length(x, y) - ring, z) - tube


def capsule(p: Point, start: Triple, end: Triple, radius: Measure) -> Tensor:
    """Segment from ``start`` to ``end`` with a round hull."""
    x, y, z = shift(p, start)
    u, v, w = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    share = ((x * u + y * v + z * w) / (u * u + v * v + w * w)).clamp(0, 1)
    return length(x - share * u, y - share * v, z - share * w) - radius


def above(p: Point, distance: Tensor, height: Measure) -> Tensor:
    """What of a solid lies above a height."""
    return torch.maximum(distance, height - p[2])
