"""Things that drive, sail and fly."""

from __future__ import annotations

import math

import numpy as np

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import (
    PAINT,
    Color,
    Paint,
    Solid,
    Triple,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    prism,
    rotation,
    sphere,
    torus,
)


@kind("rocket", "spaceship", natural="red")
def rocket(draw: Draw) -> Figure:
    """A coloured hull with a white nose, two round windows in front, three fins: one behind, two towards the front."""
    r = 0.34 * draw(0.08)
    hull = (0, 0, 0.04)
    solids = [
        ellipsoid(hull, (r, r, 0.9), PAINT, low=-0.66),
        ellipsoid(hull, (r + 0.012, r + 0.012, 0.912), "white", low=0.52),
        ellipsoid(hull, (r + 0.016, r + 0.016, 0.916), "white", low=-0.46, high=-0.36),
        cone((0, 0, -0.7), 0.25, 0.17, 0.1, "dark grey"),
        cylinder((r - 0.03, 0, 0.22), 0.16, 0.04, "steel", turn=(0, 90, 0)),
        sphere((r - 0.06, 0, 0.22), 0.125, "glass"),
        cylinder((r - 0.03, 0, -0.12), 0.1, 0.04, "steel", turn=(0, 90, 0)),
        sphere((r - 0.03, 0, -0.12), 0.075, "glass"),
    ]
    for angle in (60, 180, 300):
        u, v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        solids += [
            capsule((0.2 * u, 0.2 * v, -0.2), (0.52 * u, 0.52 * v, -0.62), 0.07, Paint(0.72)),
            capsule((0.52 * u, 0.52 * v, -0.5), (0.52 * u, 0.52 * v, -0.76), 0.075, Paint(0.72), 0.06),
        ]
    return Figure(solids, bottom=-0.82)


@kind("car", natural="red")
def car(draw: Draw) -> Figure:
    """A round little car: bonnet with headlights in front, red lights and a number plate behind."""
    tall = draw(0.08)
    cabin, glass = (-0.14, 0, 0.06), (0.5, 0.37, 0.44 * tall)
    roof = tuple(1.03 * v for v in glass)
    solids = [
        box((0, 0, -0.13), (0.69, 0.29, 0.09), PAINT, rounding=0.12),
        ellipsoid(cabin, glass, "glass"),
        ellipsoid(cabin, (roof[0], roof[1], roof[2]), PAINT, low=0.24 * tall),
        ellipsoid(cabin, (roof[2], roof[1], roof[0]), PAINT, turn=(0, 90, 0), low=-0.05, high=0.05),
        box((0.79, 0, -0.24), (0.02, 0.3, 0.03), "steel", rounding=0.03),
        box((-0.79, 0, -0.24), (0.02, 0.3, 0.03), "steel", rounding=0.03),
        box((0.8, 0, -0.08), (0.01, 0.13, 0.03), "dark grey"),
        box((-0.8, 0, -0.1), (0.01, 0.14, 0.05), "white"),
    ]
    for side in (-1, 1):
        solids += [
            cylinder((0.76, 0.3 * side, -0.07), 0.1, 0.04, "cream", turn=(0, 90, 0)),
            sphere((-0.76, 0.31 * side, -0.08), 0.075, "red"),
        ]
        for x in (-0.48, 0.48):
            solids += [
                ellipsoid((x, 0.34 * side, -0.16), (0.31, 0.14, 0.21), PAINT),
                cylinder((x, 0.41 * side, -0.29), 0.21, 0.07, "dark grey", turn=(90, 0, 0), rounding=0.02),
                cylinder((x, 0.49 * side, -0.29), 0.1, 0.02, "steel", turn=(90, 0, 0)),
            ]
    return Figure(solids, bottom=-0.52)


@kind("aeroplane", "airplane", "plane", natural="red")
def aeroplane(draw: Draw) -> Figure:
    """A chunky propeller plane with white wing tips, a glass canopy and two wheels under the wings."""
    fat = 0.23 * draw(0.08)
    wing, nose = -0.1, 0.77
    solids = [
        capsule((0.46, 0, 0), (-0.76, 0, 0.06), fat, PAINT, 0.1),
        cylinder((0.6, 0, 0), 0.22, 0.1, "white", turn=(0, 90, 0), rounding=0.02),
        ellipsoid((nose, 0, 0), (0.13, 0.09, 0.09), "yellow"),
        ellipsoid((0.12, 0, fat - 0.03), (0.27, 0.15, 0.16), "glass"),
        box((0.16, 0, wing), (0.15, 0.84, 0.01), PAINT, rounding=0.04),
        box((-0.72, 0, 0.08), (0.08, 0.3, 0.01), PAINT, rounding=0.04),
        box((-0.76, 0, 0.27), (0.08, 0.01, 0.14), PAINT, turn=(0, -20, 0), rounding=0.04),
        box((-0.81, 0, 0.42), (0.075, 0.015, 0.03), "white", turn=(0, -20, 0), rounding=0.04),
    ]
    for i in range(3):
        angle = math.radians(90 + 120 * i)
        u, v = 0.34 * math.cos(angle), 0.34 * math.sin(angle)
        solids.append(capsule((nose, 0, 0), (nose, u, v), 0.035, "dark grey", 0.06))
    for side in (-1, 1):
        solids += [
            box((0.16, 0.8 * side, wing), (0.15, 0.07, 0.015), "white", rounding=0.04),
            capsule((0.24, 0.24 * side, wing), (0.3, 0.28 * side, -0.36), 0.04, "steel"),
            cylinder((0.3, 0.32 * side, -0.38), 0.11, 0.04, "dark grey", turn=(90, 0, 0), rounding=0.02),
        ]
    return Figure(solids, bottom=-0.51).resized(0.97)


def sail(luff: Triple, half_foot: float, half_height: float, side: float, color: Color) -> Solid:
    """A triangle whose upright edge has its middle at ``luff``; it spreads to the ``side``, degrees from the back."""
    turn = (-math.degrees(math.atan(half_foot / (2 * half_height))), 0, side - 90)
    center = np.asarray(luff) - rotation(turn) @ (0, half_foot / 2, 0)
    return prism((center[0], center[1], center[2]), (0.025, half_foot, half_height), color, turn)


@kind("sailing boat", "sailboat", "boat", natural="blue")
def sailing_boat(draw: Draw) -> Figure:
    """A coloured hull and mainsail, a white jib in front, a rudder behind."""
    swing, deck, mast = draw.between(28, 42), -0.36, 0.1
    solids = [
        ellipsoid((0.02, 0, deck), (0.82, 0.38, 0.52), PAINT, low=-0.42, high=0),
        box((-0.5, 0, deck - 0.15), (0.1, 0.22, 0.1), PAINT, rounding=0.05),
        ellipsoid((0.02, 0, deck), (0.76, 0.33, 0.46), "wood", low=-0.02, high=0.02),
        ellipsoid((0.02, 0, deck), (0.835, 0.395, 0.535), "white", low=-0.12, high=-0.06),
        capsule((0.7, 0, deck), (0.9, 0, deck + 0.1), 0.03, "dark wood"),
        box((-0.68, 0, deck - 0.2), (0.06, 0.01, 0.2), "dark wood"),
        capsule((-0.66, 0, deck + 0.04), (-0.4, 0.06, deck + 0.1), 0.025, "dark wood"),
        capsule((mast, 0, deck), (mast, 0, 0.9), 0.035, "dark wood"),
        sail((mast - 0.03, 0, 0.3), 0.4, 0.54, swing, PAINT),
        sail((mast + 0.06, 0, 0.24), 0.32, 0.45, 180 - swing, "white"),
    ]
    return Figure(solids, bottom=deck - 0.42).resized(0.92)


@kind("bicycle", "bike", natural="red")
def bicycle(draw: Draw) -> Figure:
    """A city bicycle: coloured frame and mudguards, lamp and handlebar in front, saddle and rear light behind."""
    ring, tube, hub = 0.32, 0.055, -0.3
    saddle, bars = 0.36 * draw(0.08), 0.48 * draw(0.06)
    crank, seat, head, fork = (-0.08, 0, -0.3), (-0.19, 0, 0.12), (0.29, 0, 0.3), (0.35, 0, 0.1)
    solids = [
        capsule(crank, (-0.22, 0, 0.24), 0.058, PAINT),
        capsule(seat, head, 0.058, PAINT),
        capsule(crank, fork, 0.058, PAINT),
        capsule(fork, (0.27, 0, 0.36), 0.07, PAINT),
        capsule((-0.22, 0, 0.24), (-0.24, 0, saddle), 0.035, "steel"),
        capsule((0.27, 0, 0.36), (0.25, 0, bars), 0.035, "steel"),
        capsule((0.25, -0.3, bars), (0.25, 0.3, bars), 0.035, "steel"),
        ellipsoid((-0.26, 0, saddle + 0.03), (0.2, 0.11, 0.06), "dark wood"),
        sphere((0.39, 0, 0.32), 0.085, "cream"),
        sphere((-0.83, 0, -0.02), 0.055, "red"),
        capsule((-0.08, 0.09, -0.3), (0.06, 0.11, -0.42), 0.03, "dark grey"),
        capsule((-0.08, -0.09, -0.3), (-0.22, -0.11, -0.18), 0.03, "dark grey"),
        box((0.07, 0.17, -0.43), (0.06, 0.06, 0.01), "dark grey"),
        box((-0.23, -0.17, -0.17), (0.06, 0.06, 0.01), "dark grey"),
    ]
    for x in (-0.48, 0.48):
        solids += [
            torus((x, 0, hub), ring, tube, "dark grey", turn=(90, 0, 0)),
            torus((x, 0, hub), ring + 0.025, tube, PAINT, turn=(90, -15 if x > 0 else -25, 0), flat=1.9, low=0.12),
            cylinder((x, 0, hub), 0.06, 0.1, "steel", turn=(90, 0, 0)),
            capsule((x - 0.3, 0, hub), (x + 0.3, 0, hub), 0.018, "steel"),
            capsule((x, 0, hub - 0.3), (x, 0, hub + 0.3), 0.018, "steel"),
        ]
    for side in (-1, 1):
        solids += [
            capsule((0.33, 0.1 * side, 0.12), (0.48, 0.1 * side, hub), 0.042, PAINT),
            capsule((-0.48, 0.1 * side, hub), seat, 0.038, PAINT),
            capsule((0.25, 0.3 * side, bars), (0.12, 0.36 * side, bars), 0.055, "black"),
        ]
    return Figure(solids, bottom=hub - ring - tube)


@kind("hot air balloon", "balloon", natural="red")
def balloon(draw: Draw) -> Figure:
    """A hot air balloon: coloured bag with seams, a sun on its front, a wicker basket with a flag behind."""
    r, z = 0.62 * draw(0.05), 0.28
    solids = [
        sphere((0, 0, z), r, PAINT),
        cone((0, 0, z - 0.52), 0.17, 0.46, 0.24, PAINT, rounding=0.02),
        sphere((0, 0, z), r + 0.012, "white", low=-0.33, high=-0.21),
        ellipsoid((r - 0.02, 0, z + 0.1), (0.05, 0.25, 0.25), "white", turn=(0, -9, 0)),
        ellipsoid((r + 0.02, 0, z + 0.1), (0.05, 0.16, 0.16), "yellow", turn=(0, -9, 0)),
        box((0, 0, -0.78), (0.13, 0.13, 0.09), "wood", rounding=0.03),
        box((0, 0, -0.68), (0.15, 0.15, 0.01), "dark wood", rounding=0.02),
        capsule((-0.14, 0, -0.7), (-0.44, 0, -0.62), 0.02, "dark wood"),
        box((-0.38, 0, -0.73), (0.07, 0.005, 0.06), PAINT, rounding=0.015),
    ]
    for angle in (0, 60, 120):
        solids.append(torus((0, 0, z), r - 0.008, 0.022, Paint(0.7), turn=(90, 0, 30 + angle)))
    for u in (-0.13, 0.13):
        solids += [capsule((u, v, -0.66), (u, v, z - 0.7), 0.02, "dark wood") for v in (-0.13, 0.13)]
        solids.append(sphere((0, 1.5 * u, -0.82), 0.06, "cream"))
    return Figure(solids, bottom=-0.9)
