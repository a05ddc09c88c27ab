"""Things that stand in a house."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import (
    PAINT,
    Paint,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    prism,
    shifted,
    sphere,
    torus,
    turned,
)


@kind("chair", natural="wooden")
def chair(draw: Draw) -> Figure:
    """A chair with a slatted back that leans away, a cream cushion on its seat; one sits on it looking forward."""
    wide, tall = draw(0.08), 0.44 * draw(0.08)
    back = [
        box((-0.38, 0, tall + 0.3), (0.02, 0.38 * wide, 0.1), PAINT, rounding=0.05),
        *(
            box((-0.38, 0.34 * y * wide, 0.12 + tall / 2), (0.02, 0.055, tall / 2 + 0.1), PAINT, rounding=0.04)
            for y in (-1, 0, 1)
        ),
    ]
    solids = [
        box((0, 0, -0.14), (0.4, 0.42 * wide, 0.04), PAINT, rounding=0.05),
        box((0.03, 0, -0.03), (0.32, 0.33 * wide, 0.01), "cream", rounding=0.045),
        *turned(back, (0, -8, 0), (-0.38, 0, -0.1)),
    ]
    for side in (-1, 1):
        y = 0.38 * side * wide
        solids += [capsule((x, y, -0.2), (1.12 * x, 1.08 * y, -0.8), 0.085, PAINT, 0.065) for x in (-0.36, 0.36)]
        solids.append(capsule((-0.38, y, -0.52), (0.38, y, -0.52), 0.045, Paint(0.7)))
    return Figure(solids, bottom=-0.865).resized(0.88)


@kind("table", "desk", natural="wooden")
def table(draw: Draw) -> Figure:
    """A writing table: four legs, a long top, a drawer with two knobs in front."""
    wide, top = 0.76 * draw(0.05), 0.44 * draw(0.08)
    solids = [
        box((0, 0, top), (0.48, wide, 0.015), PAINT, rounding=0.05),
        box((0, 0, top - 0.2), (0.39, wide - 0.1, 0.1), Paint(0.85), rounding=0.03),
        box((0.41, 0, top - 0.19), (0.02, wide - 0.28, 0.07), PAINT, rounding=0.02),
    ]
    for side in (-1, 1):
        y = (wide - 0.1) * side
        solids.append(sphere((0.47, 0.24 * side, top - 0.18), 0.065, "gold"))
        solids += [capsule((x, y, top - 0.12), (1.05 * x, 1.02 * y, -0.56), 0.105, PAINT, 0.075) for x in (-0.37, 0.37)]
    return Figure(solids, bottom=-0.635).resized(0.92)


@kind("teapot", natural="blue")
def teapot(draw: Draw) -> Figure:
    """A round teapot: spout to the left, handle to the right, a white flower on its front."""
    fat, tall = 0.54 * draw(0.06), 0.44 * draw(0.06)
    solids = [
        ellipsoid((0, 0, -0.1), (fat, fat, tall), PAINT),
        cylinder((0, 0, -0.08 - tall), 0.3, 0.05, Paint(0.75), rounding=0.03),
        ellipsoid((0, 0, 0.86 * tall - 0.12), (0.33, 0.33, 0.14), Paint(0.75)),
        sphere((0, 0, tall + 0.1), 0.11, "gold"),
        capsule((0, 0.36, -0.18), (0, 0.66, 0.02), 0.15, PAINT, 0.11),
        capsule((0, 0.66, 0.02), (0, 0.84, 0.3), 0.11, PAINT, 0.085),
        ellipsoid((0, 0.865, 0.345), (0.055, 0.055, 0.06), "black"),
        torus((0, -0.5, -0.04), 0.27, 0.075, PAINT, (0, 90, 0), flat=1.3, high=0.1),
        sphere((fat, 0, -0.08), 0.09, "yellow"),
    ]
    for i in range(5):
        y, z = 0.17 * math.sin(2 * math.pi * i / 5), 0.17 * math.cos(2 * math.pi * i / 5)
        solids.append(ellipsoid((fat - 0.02, y, z - 0.08), (0.06, 0.1, 0.1), "white"))
    return Figure(solids, bottom=-0.16 - tall)


@kind("mug", "cup", "coffee mug", natural="white")
def mug(draw: Draw) -> Figure:
    """A mug of coffee: handle to the left, a spoon that leans to the right, a red heart on a white disc in front."""
    r, half, y = 0.5 * draw(0.06), 0.56 * draw(0.06), -0.14
    heart = [
        ellipsoid((0, 0.09, 0.06), (0.05, 0.11, 0.11), "red"),
        ellipsoid((0, -0.09, 0.06), (0.05, 0.11, 0.11), "red"),
        prism((0, 0, -0.08), (0.05, 0.185, 0.11), "red", (180, 0, 0)),
    ]
    solids = [
        cylinder((0, y, 0), r, half, PAINT, rounding=0.03, hollow=0.1, high=half - 0.08),
        torus((0, y, half - 0.08), r - 0.02, 0.05, PAINT),
        cylinder((0, y, half - 0.18), r - 0.06, 0.04, (0.26, 0.13, 0.06)),
        capsule((-0.1, y - 0.1, half - 0.2), (-0.2, y - 0.34, half + 0.14), 0.04, "steel", 0.055),
        torus((0, r + y + 0.01, 0), 0.3, 0.085, PAINT, (0, 90, 0), flat=1.3, low=-0.04),
        ellipsoid((r, y, -0.02), (0.05, 0.27, 0.27), "white"),
        *shifted(heart, (r + 0.03, y, -0.02)),
    ]
    return Figure(solids, bottom=-half - 0.03)


@kind("lamp", "desk lamp", natural="yellow")
def lamp(draw: Draw) -> Figure:
    """A desk lamp: a round foot, an arm with an elbow behind on the left, a shade that shines its bulb to the front."""
    reach, nod = draw.between(-0.03, 0.05), draw.between(-8, 8)
    foot, elbow, neck = (-0.16, 0.12, -0.74), (-0.36, 0.3, -0.1), (-0.02 + reach, 0, 0.4)
    shade = [
        cone((0, 0, 0.28), 0.2, 0.52, 0.25, PAINT, rounding=0.02, hollow=0.06, high=0.2),
        cylinder((0, 0, 0), 0.16, 0.1, PAINT, rounding=0.04),
        cone((0, 0, 0.26), 0.15, 0.44, 0.18, "cream"),
        sphere((0, 0, 0.44), 0.2, (1.0, 0.93, 0.55)),
    ]
    solids = [
        cylinder((-0.1, 0, -0.78), 0.46, 0.04, PAINT, rounding=0.05),
        sphere((0.2, 0, -0.7), 0.07, "red"),
        capsule(foot, elbow, 0.075, PAINT),
        capsule(elbow, neck, 0.075, PAINT),
        cylinder(elbow, 0.11, 0.1, "steel", turn=(90, 0, -40), rounding=0.02),
        cylinder((-0.16, 0.12, -0.68), 0.12, 0.1, "steel", turn=(90, 0, -40), rounding=0.02),
        *shifted(turned(shade, (0, 100 + nod, 0)), neck),
    ]
    return Figure(solids, bottom=-0.87).resized(0.95)
