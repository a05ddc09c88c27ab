"""Things that grow."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import PAINT, Paint, capsule, cone, cylinder, ellipsoid, shifted, sphere, torus, turned

GREEN = (0.18, 0.56, 0.20)


@kind("mushroom", "toadstool", natural="red")
def mushroom(draw: Draw) -> Figure:
    """A cream stem under a coloured cap with white spots; a small mushroom stands before it."""
    wide, tall = draw(0.08), draw(0.08)
    solids = [
        cone((0, 0, -0.36), 0.26, 0.18, 0.45, "cream", rounding=0.02),
        torus((0, 0, -0.08), 0.19, 0.055, "cream"),
        ellipsoid((0, 0, 0.05), (0.8 * wide, 0.8 * wide, 0.68 * tall), PAINT, low=0.0),
        ellipsoid((0, 0, 0.05), (0.7 * wide, 0.7 * wide, 0.05), "cream"),
        cone((0.44, 0.16, -0.65), 0.11, 0.08, 0.17, "cream"),
        ellipsoid((0.44, 0.16, -0.56), (0.27, 0.27, 0.25), PAINT, low=0.0),
    ]
    for i in range(11):
        angle, rise = 2.4 * i, 0.12 + 0.082 * i
        ring = 0.78 * math.sqrt(1 - rise**2) * wide
        solids.append(sphere((ring * math.cos(angle), ring * math.sin(angle), 0.05 + 0.66 * rise * tall), 0.1, "white"))
    return Figure(solids, bottom=-0.83)


@kind("cactus", natural="orange")
def cactus(draw: Draw) -> Figure:
    """A ribbed cactus with two raised arms in a large coloured pot, a pink flower on its front."""
    tall = draw(0.08)
    solids = [
        cone((0, 0, -0.58), 0.36, 0.5, 0.28, PAINT, rounding=0.02),
        cylinder((0, 0, -0.25), 0.56, 0.09, PAINT, rounding=0.02),
        cylinder((0, 0, -0.15), 0.5, 0.02, "brown"),
        capsule((0, 0.1, 0.08), (0, 0.44, 0.12), 0.12, GREEN),
        capsule((0, 0.44, 0.12), (0, 0.44, 0.44 * tall), 0.12, GREEN),
        capsule((0, -0.1, 0.22), (0, -0.42, 0.26), 0.11, GREEN),
        capsule((0, -0.42, 0.26), (0, -0.42, 0.58 * tall), 0.11, GREEN),
    ]
    for angle in range(0, 360, 60):
        u, v = 0.12 * math.cos(math.radians(angle)), 0.12 * math.sin(math.radians(angle))
        solids.append(capsule((u, v, -0.2), (u, v, 0.6 * tall), 0.115, GREEN))
    for i in range(6):
        angle = 2 * math.pi * i / 6
        petal = (0.24, 0.1 * math.cos(angle), 0.5 * tall + 0.1 * math.sin(angle))
        solids.append(sphere(petal, 0.07, "pink"))
    solids.append(sphere((0.29, 0, 0.5 * tall), 0.06, "yellow"))
    return Figure(solids, bottom=-0.88)


@kind("tree", natural="green")
def tree(draw: Draw) -> Figure:
    """A round crown of coloured leaves on a wooden trunk: a hollow in front, a low branch to the left."""
    wide, tall = draw(0.07), draw.between(-0.04, 0.06)
    solids = [
        cone((0, 0, -0.43), 0.23, 0.16, 0.44, "wood", rounding=0.01),
        ellipsoid((0.18, 0, -0.38), (0.05, 0.075, 0.12), "black"),
        capsule((0, 0.1, -0.42), (-0.02, 0.46, -0.2), 0.07, "wood"),
        ellipsoid((-0.02, 0.52, -0.16), (0.2, 0.2, 0.17), PAINT),
        ellipsoid((0, 0, 0.34 + tall), (0.5 * wide, 0.5 * wide, 0.46), PAINT),
        sphere((0.04, 0.06, 0.62 + tall), 0.27, PAINT),
    ]
    for i in range(6):
        angle, height = 2 * math.pi * (i + 0.5) / 6, 0.16 + 0.13 * (i % 2) + tall
        center = (0.42 * wide * math.cos(angle), 0.42 * wide * math.sin(angle), height)
        solids.append(sphere(center, 0.33, Paint(0.88) if i % 2 else PAINT))
    for angle in (70, 190, 310):
        u, v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        solids.append(capsule((0.1 * u, 0.1 * v, -0.7), (0.33 * u, 0.33 * v, -0.83), 0.06, "wood"))
    return Figure(solids, bottom=-0.89)


@kind("flower", "flower in a pot", "potted flower", natural="pink")
def flower(draw: Draw) -> Figure:
    """A flower that faces the front, a leaf on either side; petals and pot take the colour."""
    tall, petals = draw.between(0.4, 0.48), 8
    head = [ellipsoid((0, 0, 0.05), (0.2, 0.2, 0.12), "gold"), ellipsoid((0, 0, -0.06), (0.15, 0.15, 0.09), GREEN)]
    for i in range(petals):
        angle = 360 * i / petals
        u, v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        head.append(ellipsoid((0.3 * u, 0.3 * v, 0.04), (0.21, 0.14, 0.07), PAINT, (0, -18, angle)))
    solids = [
        *shifted(turned(head, (0, 62, 0)), (0.1, 0, tall)),
        capsule((0, 0, -0.4), (0.04, 0, tall), 0.05, GREEN),
        ellipsoid((0.03, 0.26, -0.12), (0.1, 0.27, 0.05), GREEN, (28, 0, 0)),
        ellipsoid((-0.03, -0.24, -0.22), (0.1, 0.24, 0.05), GREEN, (-28, 0, 0)),
        cone((0, 0, -0.64), 0.3, 0.42, 0.23, PAINT, rounding=0.02),
        cylinder((0, 0, -0.4), 0.48, 0.07, PAINT, rounding=0.02),
        cylinder((0, 0, -0.32), 0.42, 0.02, "brown"),
    ]
    return Figure(solids, bottom=-0.89)
