"""Toys and festive things."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Ball, Draw, Figure, kind
from dreamerxl.miniature.solids import PAINT, Paint, Solid, box, capsule, cylinder, ellipsoid, sphere, torus, turned


@kind("duck", "rubber duck", natural="yellow")
def duck(draw: Draw) -> Figure:
    """A rubber duck: round body, head, orange bill, wings at the sides, a tail turned up."""
    fat = draw(0.08)
    solids = [
        ellipsoid((-0.05, 0, -0.3), (0.6, 0.43 * fat, 0.36), PAINT),
        ellipsoid((0.3, 0, 0.27), (0.3, 0.29, 0.29), PAINT),
        capsule((-0.48, 0, -0.2), (-0.74, 0, 0.06), 0.11, PAINT),
        ellipsoid((0.63, 0, 0.2), (0.18, 0.15, 0.065), "orange"),
    ]
    for side in (-1, 1):
        solids += [
            sphere((0.5, 0.15 * side, 0.37), 0.06, "black"),
            ellipsoid((-0.1, 0.4 * side * fat, -0.25), (0.34, 0.1, 0.2), Paint(0.82)),
        ]
    return Figure(solids, bottom=-0.66, head=Ball((0.3, 0, 0.27), 0.3), neck=Ball((0.26, 0, 0.0), 0.27))


@kind("snowman", natural="red")
def snowman(draw: Draw) -> Figure:
    """Three snowballs, carrot nose, coal eyes and buttons, stick arms; hat and scarf take the colour."""
    k = draw(0.08)
    solids = [
        sphere((0, 0, -0.52), 0.42 * k, "white"),
        sphere((0, 0, 0.05), 0.31 * k, "white"),
        sphere((0, 0, 0.49), 0.23 * k, "white"),
        capsule((0.2, 0, 0.49), (0.44, 0, 0.46), 0.05, "orange", 0.02),
        torus((0, 0, 0.31), 0.2, 0.085, PAINT),
        capsule((0.2, 0.12, 0.3), (0.32, 0.18, 0.0), 0.07, PAINT),
        cylinder((0, 0, 0.68), 0.3, 0.02, PAINT),
        cylinder((0, 0, 0.82), 0.19, 0.13, PAINT),
        sphere((0.3 * k, 0, -0.02), 0.042, "black"),
        sphere((0.3 * k, 0, 0.13), 0.042, "black"),
    ]
    for side in (-1, 1):
        solids += [
            sphere((0.19, 0.09 * side, 0.57), 0.042, "black"),
            capsule((0, 0.25 * side, 0.1), (0.1, 0.62 * side, 0.27), 0.035, "brown"),
        ]
    return Figure(solids, bottom=-0.52 - 0.42 * k)


@kind("robot", natural="grey")
def robot(draw: Draw) -> Figure:
    """A tin robot: lit eyes, a panel of lamps on its chest, claws, a golden key to wind it up in its back."""
    wide, swing = draw(0.07), draw.between(-0.1, 0.1)
    solids = [
        box((0, 0, 0.44), (0.2, 0.27 * wide, 0.18), PAINT, rounding=0.06),
        box((0, 0, -0.16), (0.2, 0.33 * wide, 0.27), PAINT, rounding=0.06),
        cylinder((0, 0, 0.19), 0.13, 0.07, "dark grey"),
        box((0.26, 0, 0.35), (0.01, 0.14, 0.02), "dark grey"),
        capsule((0, 0, 0.64), (0, 0, 0.82), 0.03, "steel"),
        sphere((0, 0, 0.85), 0.08, "red"),
        box((0.26, 0, -0.1), (0.01, 0.22 * wide, 0.14), "cream"),
        box((0.28, 0, -0.19), (0.01, 0.16 * wide, 0.015), "dark grey"),
        capsule((-0.24, 0, -0.1), (-0.44, 0, -0.1), 0.05, "dark gold"),
        torus((-0.5, 0.1, 0.0), 0.1, 0.05, "gold", (0, 90, 0)),
        torus((-0.5, -0.1, -0.2), 0.1, 0.05, "gold", (0, 90, 0)),
    ]
    solids += [sphere((0.28, y, -0.04), 0.055, lamp) for y, lamp in ((-0.14, "red"), (0.0, "yellow"), (0.14, "green"))]
    for side in (-1, 1):
        hand = (0.2 + swing * side, 0.6, -0.4)
        solids += [
            sphere((0.26, 0.13 * side, 0.49), 0.085, (1.0, 0.92, 0.45)),
            sphere((0.33, 0.13 * side, 0.49), 0.04, "black"),
            cylinder((0, 0.35 * side * wide, 0.46), 0.1, 0.04, "steel", (90, 0, 0)),
            sphere((0, 0.44 * side, 0.08), 0.13, "steel"),
            capsule((0, 0.47 * side, 0.06), (0.02, 0.56 * side, -0.18), 0.09, PAINT),
            capsule((0.02, 0.56 * side, -0.18), (hand[0], hand[1] * side, hand[2]), 0.085, PAINT, 0.1),
            capsule((hand[0], 0.54 * side, hand[2]), (hand[0] + 0.12, 0.52 * side, hand[2] - 0.1), 0.045, "dark grey"),
            capsule((hand[0], 0.66 * side, hand[2]), (hand[0] + 0.12, 0.68 * side, hand[2] - 0.1), 0.045, "dark grey"),
            capsule((0, 0.2 * side, -0.45), (0, 0.2 * side, -0.68), 0.12, "dark grey"),
            box((0.06, 0.21 * side, -0.76), (0.17, 0.11, 0.06), PAINT, rounding=0.05),
        ]
    return Figure(solids, bottom=-0.87, head=Ball((0, 0, 0.44), 0.33), neck=Ball((0, 0, 0.18), 0.3))


@kind("guitar", natural="wooden")
def guitar(draw: Draw) -> Figure:
    """A guitar that stands upright: sound hole, strings and bridge in front, a plain back, three pegs on either side."""
    fat, deep, long = draw(0.06), 0.15 * draw(0.1), draw.between(0.66, 0.72)
    rim = Paint(0.62)
    solids: list[Solid] = []
    for z, r in ((-0.48, 0.4 * fat), (-0.06, 0.28 * fat), (-0.26, 0.25 * fat)):
        solids.append(cylinder((0, 0, z), r, deep, rim, (0, 90, 0), rounding=0.04))
        for x in (-deep - 0.02, deep + 0.02):
            solids.append(cylinder((x, 0, z), r - 0.03, 0.02, PAINT, (0, 90, 0), rounding=0.03))
    face = deep + 0.06
    solids += [
        torus((face, 0, -0.2), 0.13, 0.03, "cream", (0, 90, 0)),
        cylinder((face, 0, -0.2), 0.125, 0.01, "black", (0, 90, 0)),
        box((face, 0, -0.56), (0.02, 0.17, 0.03), "dark wood"),
        box((face - 0.05, 0, long / 2), (0.05, 0.075, long / 2), "dark wood"),
        box((deep - 0.03, 0, long + 0.12), (0.05, 0.11, 0.12), PAINT, (0, -10, 0), rounding=0.03),
        capsule((0, 0, 0.16), (deep - 0.02, 0, 0.34), 0.07, "dark wood"),
    ]
    for side in (-1, 1):
        solids.append(capsule((face + 0.03, 0.035 * side, -0.56), (face + 0.02, 0.035 * side, long), 0.016, "cream"))
        solids += [sphere((deep - 0.03, 0.19 * side, long + z), 0.045, "steel") for z in (0.03, 0.13, 0.23)]
    return Figure(solids, bottom=-0.52 - 0.4 * fat).resized(0.97)


@kind("treasure chest", "chest", natural="wooden")
def treasure_chest(draw: Draw) -> Figure:
    """An open chest full of gold, bound with golden bands; a lock in front, its arched lid opens to the back."""
    wide, lid_turn = 0.62 * draw(0.06), draw.between(-58, -46)
    deep, band = 0.34, 0.36
    lid = [torus((0, 0, 0), deep, 0.07, PAINT, (90, 0, 0), flat=wide / 0.07, low=-0.02)]
    solids = [
        box((0, 0, -0.34), (deep, wide - 0.04, 0.28), PAINT, rounding=0.05),
        box((0, 0, -0.64), (deep + 0.03, wide, 0.02), Paint(0.7), rounding=0.04),
        ellipsoid((0, 0, -0.02), (deep - 0.03, wide - 0.08, 0.2), "gold"),
        box((deep + 0.05, 0, -0.14), (0.03, 0.11, 0.12), "gold"),
        sphere((deep + 0.1, 0, -0.12), 0.045, "black"),
        ellipsoid((0.16, -0.2, 0.14), (0.09, 0.09, 0.09), "red"),
        ellipsoid((0.14, 0.3, 0.12), (0.08, 0.08, 0.08), "turquoise"),
    ]
    for side in (-1, 1):
        y = band * side
        lid += [
            ellipsoid((0, (wide - 0.08) * side, 0), (deep + 0.03, 0.05, deep + 0.03), PAINT, low=0.0),
            torus((0, y, 0), deep + 0.03, 0.07, "dark gold", (90, 0, 0), flat=1.2, low=-0.02),
        ]
        solids += [
            box((0, y, -0.34), (deep + 0.02, 0.05, 0.28), "dark gold", rounding=0.05),
            torus((0.02, (wide + 0.02) * side, -0.26), 0.12, 0.035, "steel", (90, 0, 0), high=0.02),
        ]
    for i in range(9):
        y, x = (i - 4) * 0.13 * wide / 0.62, 0.18 * math.sin(2.4 * i)
        coin = (x, y, 0.16 - 0.5 * x * x - 0.25 * y * y)
        solids.append(cylinder(coin, 0.085, 0.015, "yellow", (30 * math.sin(3.0 * i), 30 * math.cos(5.0 * i), 0)))
    return Figure([*solids, *turned(lid, (0, lid_turn, 0), (-deep, 0, 0))], bottom=-0.7).resized(0.96)
