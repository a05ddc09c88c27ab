"""The solids that objects are put together from, and the table of numbers that the tracer reads them from.

Lengths are in scene units (an object fills the unit ball), z is up, +x is the front. Every solid can be turned, cut
between two heights of its own, hollowed and rounded. Colours are a name, an (r, g, b) in 0..1, or ``PAINT``, which
stands for the colour and the finish that the prompt asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Triple = tuple[float, float, float]

ELLIPSOID, BOX, CONE, TORUS, CAPSULE, PRISM = range(6)  # kinds
MATTE, STRIPED, SPOTTED, WOODEN, GOLDEN, GLOSSY = range(6)  # finishes

# columns of the table
KIND, CENTER, ROTATION, SIZE, ROUNDING, HOLLOW = 0, 1, 4, 13, 16, 17
LOW, HIGH, RADIUS, FINISH, FIRST, SECOND = 18, 19, 20, 21, 22, 25
COLUMNS = 28
FAR = 9.0

PALETTE: dict[str, Triple] = {
    "red": (0.82, 0.08, 0.10),
    "green": (0.12, 0.58, 0.16),
    "blue": (0.10, 0.24, 0.84),
    "yellow": (0.97, 0.86, 0.10),
    "orange": (0.97, 0.47, 0.04),
    "purple": (0.46, 0.13, 0.68),
    "pink": (0.97, 0.50, 0.72),
    "white": (0.94, 0.94, 0.94),
    "black": (0.07, 0.07, 0.08),
    "brown": (0.40, 0.22, 0.10),
    "grey": (0.50, 0.51, 0.53),
    "turquoise": (0.10, 0.78, 0.76),
    # not words of a prompt: what fixed parts are made of
    "cream": (0.95, 0.89, 0.76),
    "dough": (0.85, 0.62, 0.33),
    "wood": (0.58, 0.37, 0.19),
    "dark wood": (0.42, 0.25, 0.12),
    "gold": (0.96, 0.72, 0.18),
    "dark gold": (0.80, 0.52, 0.08),
    "steel": (0.66, 0.69, 0.73),
    "dark grey": (0.22, 0.23, 0.25),
    "glass": (0.56, 0.76, 0.92),
    "dark green": (0.07, 0.36, 0.12),
    "skin": (0.96, 0.76, 0.62),
}


class Paint(NamedTuple):
    """The prompt's colour, darker (factor < 1) or lighter (factor > 1)."""

    factor: float = 1.0


PAINT = Paint()
Color = Paint | str | Triple


@dataclass(frozen=True)
class Solid:
    """One part of an object. ``size`` depends on the kind; ``turn`` is in degrees, about x, then y, then z."""

    kind: int
    center: Triple
    size: Triple
    color: Color
    turn: Triple = (0.0, 0.0, 0.0)
    rounding: float = 0.0
    hollow: float = 0.0  # thickness of the wall; 0 is solid
    low: float = -FAR  # cuts in the solid's own z, before it is turned
    high: float = FAR
    matrix: np.ndarray | None = field(default=None, compare=False)  # in place of ``turn``


@dataclass(frozen=True)
class Coat:
    """What ``PAINT`` stands for in one scene."""

    color: Triple
    finish: int = MATTE


def ellipsoid(
    center: Triple,
    radii: Triple,
    color: Color,
    turn: Triple = (0, 0, 0),
    hollow: float = 0.0,
    low: float = -FAR,
    high: float = FAR,
) -> Solid:
    """Ellipsoid with three radii; ``low`` and ``high`` keep a slice of it."""
    return Solid(ELLIPSOID, center, radii, color, turn, 0.0, hollow, low, high)


def sphere(center: Triple, radius: float, color: Color, hollow: float = 0.0, low: float = -FAR, high: float = FAR) -> Solid:
    """Ball."""
    return ellipsoid(center, (radius, radius, radius), color, (0, 0, 0), hollow, low, high)


def box(center: Triple, half: Triple, color: Color, turn: Triple = (0, 0, 0), rounding: float = 0.02) -> Solid:
    """Box with rounded edges; ``half`` is half its size without the rounding."""
    return Solid(BOX, center, half, color, turn, rounding)


def cone(
    center: Triple,
    bottom: float,
    top: float,
    half_height: float,
    color: Color,
    turn: Triple = (0, 0, 0),
    rounding: float = 0.0,
    hollow: float = 0.0,
    low: float = -FAR,
    high: float = FAR,
) -> Solid:
    """Capped cone along its z: radius ``bottom`` at one end, ``top`` at the other (0 is a point)."""
    return Solid(CONE, center, (bottom, top, half_height), color, turn, rounding, hollow, low, high)


def cylinder(
    center: Triple,
    radius: float,
    half_height: float,
    color: Color,
    turn: Triple = (0, 0, 0),
    rounding: float = 0.01,
    hollow: float = 0.0,
    low: float = -FAR,
    high: float = FAR,
) -> Solid:
    """Cylinder along its z with rounded edges."""
    return cone(center, radius, radius, half_height, color, turn, rounding, hollow, low, high)


def torus(
    center: Triple,
    ring: float,
    tube: float,
    color: Color,
    turn: Triple = (0, 0, 0),
    flat: float = 1.0,
    low: float = -FAR,
    high: float = FAR,
) -> Solid:
    """Ring lying in its xy plane; ``flat`` > 1 widens the tube along z. Cut along its y, it is a handle."""
    return Solid(TORUS, center, (ring, tube, flat), color, turn, 0.0, 0.0, low, high)


def capsule(start: Triple, end: Triple, radius: float, color: Color, end_radius: float | None = None) -> Solid:
    """Round-ended stick from ``start`` to ``end``, of another radius at its end if wanted."""
    axis = np.subtract(end, start)
    length = float(np.linalg.norm(axis))
    center = tuple(float(v) for v in (np.asarray(start) + np.asarray(end)) / 2)
    size = (radius, radius if end_radius is None else end_radius, length / 2)
    return Solid(CAPSULE, center, size, color, matrix=frame_along(axis))  # pyright: ignore[reportArgumentType]


def prism(center: Triple, half: Triple, color: Color, turn: Triple = (0, 0, 0)) -> Solid:
    """Gable roof: its ridge along x at z = center + half_z, its foot ``half_y`` wide at z = center - half_z."""
    return Solid(PRISM, center, half, color, turn)


def turned(solids: Sequence[Solid], turn: Triple, about: Triple = (0, 0, 0)) -> list[Solid]:
    """The solids turned together about a point, in degrees about x, then y, then z."""
    whole, pivot = rotation(turn), np.asarray(about, float)
    return [_moved(s, tuple((whole @ (np.asarray(s.center) - pivot) + pivot).tolist()), whole @ own(s)) for s in solids]


def shifted(solids: Sequence[Solid], by: Triple) -> list[Solid]:
    """The solids moved together."""
    return [_moved(s, tuple((np.asarray(s.center) + np.asarray(by)).tolist()), own(s)) for s in solids]


def scaled(solids: Sequence[Solid], factor: float, about: Triple = (0, 0, 0)) -> list[Solid]:
    """The solids larger or smaller about a point."""
    result = []
    for s in solids:
        center = tuple((factor * (np.asarray(s.center) - about) + about).tolist())
        size = (s.size[0] * factor, s.size[1] * factor, s.size[2] * (1 if s.kind == TORUS else factor))
        low, high = (v if abs(v) == FAR else v * factor for v in (s.low, s.high))
        result.append(Solid(s.kind, center, size, s.color, s.turn, s.rounding * factor, s.hollow * factor, low, high, s.matrix))
    return result


def _moved(s: Solid, center: tuple[float, ...], matrix: np.ndarray) -> Solid:
    return Solid(s.kind, center, s.size, s.color, s.turn, s.rounding, s.hollow, s.low, s.high, matrix)  # pyright: ignore[reportArgumentType]


def own(solid: Solid) -> np.ndarray:
    """The solid's rotation [3, 3], own axes to the scene's."""
    return rotation(solid.turn) if solid.matrix is None else solid.matrix


def rotation(turn: Triple) -> np.ndarray:
    """Rotation matrix [3, 3] of degrees about x, then y, then z."""
    if not any(turn):
        return np.eye(3)
    (a, b, c), (s, t, u) = (tuple(f(math.radians(v)) for v in turn) for f in (math.cos, math.sin))
    about_x = np.array([[1, 0, 0], [0, a, -s], [0, s, a]])
    about_y = np.array([[b, 0, t], [0, 1, 0], [-t, 0, b]])
    about_z = np.array([[c, -u, 0], [u, c, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def frame_along(axis: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that takes z to the axis."""
    z = axis / np.linalg.norm(axis)
    helper = np.array([1.0, 0, 0]) if abs(z[0]) < 0.9 else np.array([0, 1.0, 0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)


def table(solids: Sequence[Solid], coat: Coat) -> np.ndarray:
    """The solids [P, COLUMNS] as the tracer reads them, painted."""
    rows = np.zeros((len(solids), COLUMNS), np.float32)
    for row, s in zip(rows, solids, strict=True):
        if isinstance(s.color, Paint):
            first, finish = shade(coat.color, s.color.factor), coat.finish
        else:
            first = PALETTE[s.color] if isinstance(s.color, str) else s.color
            finish = WOODEN if s.color == "wood" else MATTE
        row[KIND] = s.kind
        row[CENTER : CENTER + 3] = s.center
        row[ROTATION : ROTATION + 9] = own(s).T.ravel()  # the scene's axes to the solid's own
        row[SIZE : SIZE + 3] = s.size
        row[ROUNDING], row[HOLLOW], row[LOW], row[HIGH] = s.rounding, s.hollow, s.low, s.high
        row[RADIUS] = bounding_radius(s)
        row[FINISH] = finish
        row[FIRST : FIRST + 3] = first
        row[SECOND : SECOND + 3] = second_color(first, finish)
    return rows


def shade(color: Triple, factor: float) -> Triple:
    """A darker (factor < 1) or lighter variant of a colour."""
    return tuple(c * factor if factor <= 1 else 1 - (1 - c) / factor for c in color)  # pyright: ignore[reportReturnType]


def second_color(first: Triple, finish: int) -> Triple:
    """What a pattern alternates with: white on colours, grey on white, the dark grain of wood."""
    if finish == WOODEN:
        return tuple(0.66 * c for c in first)  # pyright: ignore[reportReturnType]
    return (0.96, 0.96, 0.96) if min(first) < 0.6 else (0.45, 0.45, 0.47)


def bounding_radius(s: Solid) -> float:
    """Radius of a ball about the centre that holds the solid."""
    a, b, c = s.size
    reach = {
        ELLIPSOID: max(a, b, c),
        BOX: math.sqrt(a * a + b * b + c * c),
        CONE: math.hypot(max(a, b), c),
        TORUS: a + b * max(1.0, c),
        CAPSULE: c + max(a, b),
        PRISM: math.sqrt(a * a + b * b + c * c),
    }
    return reach[s.kind] + s.rounding + 1e-3
