"""Buildings."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import PAINT, Paint, Solid, Triple, box, capsule, cone, cylinder, ellipsoid, prism, sphere, torus

WALL = (0.93, 0.89, 0.80)
STONE = (0.47, 0.46, 0.45)


def window(center: Triple, across: Triple) -> list[Solid]:
    """A pane in a white frame; ``across`` is half its size, the thin side last to be seen."""
    pane = tuple(v + 0.015 if v < 0.03 else v - 0.03 for v in across)
    return [box(center, across, "white"), box(center, (pane[0], pane[1], pane[2]), (0.30, 0.48, 0.66))]


@kind("house", "cottage", "home", natural="red")
def house(draw: Draw) -> Figure:
    """A house with a coloured roof and door; the door in front under a lamp, a chimney on the left, a shed behind."""
    wide, high = 0.6 * draw(0.06), draw.between(0.26, 0.34)
    eaves = -0.76 + 2 * high
    solids = [
        box((0, 0, high - 0.76), (0.44, wide, high), WALL),
        prism((0, 0, eaves + 0.25), (wide + 0.12, 0.62, 0.3), PAINT, (0, 0, 90)),
        box((0, 0, eaves - 0.04), (0.54, wide + 0.1, 0.02), Paint(0.7)),
        box((-0.16, 0.3, eaves + 0.42), (0.09, 0.09, 0.22), (0.56, 0.28, 0.22)),
        box((-0.16, 0.3, eaves + 0.66), (0.11, 0.11, 0.015), "dark grey"),
        box((0.46, 0, -0.5), (0.02, 0.14, 0.24), PAINT),
        sphere((0.5, 0.08, -0.5), 0.035, "gold"),
        box((0.54, 0, -0.75), (0.1, 0.2, 0.02), STONE),
        box((-0.5, -0.2, -0.58), (0.14, 0.22, 0.18), WALL),
        box((-0.54, -0.2, -0.37), (0.16, 0.26, 0.02), PAINT, (0, -14, 0)),
        *window((-0.44, 0.28 * wide / 0.6, -0.42), (0.02, 0.12, 0.12)),
    ]
    for side in (-1, 1):
        solids += window((0.44, 0.62 * wide * side, -0.42), (0.02, 0.12, 0.13))
        solids += window((0.0, wide * side, -0.42), (0.16, 0.02, 0.13))
    return Figure(solids, bottom=-0.79).resized(0.9)


@kind("castle", "castle tower", natural="grey")
def castle(draw: Draw) -> Figure:
    """A square keep with battlements between four round towers under pointed roofs; a gate in front, a flag."""
    wide, rise = 0.4, draw.between(0.0, 0.12)
    roof = Paint(0.55)
    solids = [
        box((0, 0, -0.46), (wide, wide, 0.38), PAINT),
        box((0, 0, -0.22), (0.22, 0.22, 0.44), PAINT),
        box((0.41, 0, -0.64), (0.03, 0.17, 0.2), "dark wood"),
        cylinder((0.41, 0, -0.44), 0.17, 0.03, "dark wood", (0, 90, 0)),
        box((0.46, 0, -0.61), (0.01, 0.012, 0.2), "black", rounding=0.005),
        capsule((0, 0, 0.2), (0, 0, 0.88), 0.03, "dark wood"),
        prism((0, -0.17, 0.73), (0.02, 0.14, 0.16), "gold", (90, 0, 0)),
    ]
    for i in range(8):
        u, v = math.cos(math.pi * i / 4), math.sin(math.pi * i / 4)
        solids.append(box((0.2 * round(1.4 * u), 0.2 * round(1.4 * v), 0.28), (0.06, 0.06, 0.06), PAINT))
    for x in (-1, 1):
        for y in (-1, 1):
            center = (wide * x, wide * y)
            top = 0.06 + (rise if x > 0 else -rise / 2)
            solids += [
                cylinder((*center, (top - 0.84) / 2), 0.19, (top + 0.84) / 2, PAINT),
                cone((*center, top + 0.2), 0.26, 0.01, 0.2, roof, rounding=0.02),
                box((center[0] + 0.185 * x, center[1], top - 0.16), (0.02, 0.035, 0.07), "black"),
                box((center[0], center[1] + 0.185 * y, top - 0.16), (0.035, 0.02, 0.07), "black"),
            ]
        solids += [box((wide * x, y, -0.03), (0.05, 0.05, 0.06), PAINT) for y in (-0.1, 0.1)]
        solids += [box((u, wide * x, -0.03), (0.05, 0.05, 0.06), PAINT) for u in (-0.1, 0.1)]
        solids.append(box((0, wide * x, -0.42), (0.06, 0.025, 0.11), "black"))
    return Figure(solids, bottom=-0.86).resized(0.87)


@kind("lighthouse", natural="red")
def lighthouse(draw: Draw) -> Figure:
    """A tapering tower with white bands on a rock, a lantern on top; door and window in front, a hut behind."""
    r = 0.34 * draw(0.07)

    def radius(z: float) -> float:
        return r - 0.11 * (z + 0.68) / 1.06

    solids = [
        ellipsoid((0, 0, -0.92), (0.58, 0.54, 0.32), STONE, low=0.02),
        ellipsoid((0.3, -0.3, -0.8), (0.2, 0.17, 0.14), STONE, (0, 0, 30), low=-0.08),
        cone((0, 0, -0.15), radius(-0.68), radius(0.38), 0.53, PAINT),
        *(cone((0, 0, z), radius(z - 0.1) + 0.012, radius(z + 0.1) + 0.012, 0.1, "white") for z in (-0.36, 0.08)),
        cylinder((0, 0, 0.41), 0.34, 0.03, "dark grey"),
        torus((0, 0, 0.52), 0.32, 0.022, "dark grey"),
        cylinder((0, 0, 0.56), 0.19, 0.14, (1.0, 0.9, 0.42)),
        cone((0, 0, 0.78), 0.28, 0.05, 0.1, PAINT, rounding=0.02),
        sphere((0, 0, 0.91), 0.055, "dark grey"),
        box((radius(-0.55) - 0.02, 0, -0.5), (0.04, 0.09, 0.15), "dark wood"),
        box((radius(-0.18), 0, -0.14), (0.03, 0.05, 0.08), "black"),
        box((radius(0.25), 0, 0.25), (0.03, 0.05, 0.06), "black"),
        box((-0.42, 0, -0.52), (0.18, 0.17, 0.14), WALL),
        prism((-0.42, 0, -0.3), (0.24, 0.24, 0.12), PAINT),
    ]
    for i in range(6):
        u, v = math.cos(math.pi * i / 3), math.sin(math.pi * i / 3)
        solids.append(capsule((0.19 * u, 0.19 * v, 0.42), (0.19 * u, 0.19 * v, 0.7), 0.022, "dark grey"))
        solids.append(capsule((0.32 * u, 0.32 * v, 0.42), (0.32 * u, 0.32 * v, 0.52), 0.02, "dark grey"))
    return Figure(solids, bottom=-0.9).resized(0.93)
