"""Things to put on a head."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import (
    PAINT,
    Paint,
    Solid,
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


@kind("crown", "royal crown", natural="golden")
def crown(draw: Draw) -> Figure:
    """A king's crown, higher in front, lined with velvet: a red stone in front, green ones aside, a blue one behind."""
    ring, count = 0.6 * draw(0.06), 8
    solids = [
        cylinder((0, 0, -0.32), ring, 0.22, PAINT, rounding=0.02, hollow=0.1, high=0.2),
        torus((0, 0, -0.5), ring + 0.01, 0.075, Paint(0.75)),
        ellipsoid((0, 0, -0.3), (ring - 0.06, ring - 0.06, 0.34), (0.55, 0.05, 0.14), low=-0.1),
    ]
    stones = ("red", "white", "green", "white", "blue", "white", "green", "white")
    for i in range(count):
        angle = 2 * math.pi * i / count
        u, v = math.cos(angle), math.sin(angle)
        high = 0.32 + 0.1 * u if i % 2 == 0 else 0.22
        tip, lean = 0.02 + 1.4 * high, 12
        out = ring + (tip + 0.12) / 2 * math.tan(math.radians(lean))
        far = 2 * out - ring
        size = 0.15 if i == 0 else 0.11 if i % 2 == 0 else 0.07
        solids += [
            prism((out * u, out * v, (tip - 0.12) / 2), (0.055, 0.25, (tip + 0.12) / 2), PAINT, (0, lean, math.degrees(angle))),
            sphere((far * u, far * v, tip), 0.09, PAINT),
            ellipsoid(((ring + 0.03) * u, (ring + 0.03) * v, -0.3), (0.1, size, size), stones[i], (0, 0, math.degrees(angle))),
        ]
    return Figure(solids, bottom=-0.575).resized(0.92)


@kind("football helmet", "helmet", natural="blue")
def football_helmet(draw: Draw) -> Figure:
    """An American football helmet: a white stripe over a coloured shell, a grille before the open face, ear holes."""
    long, lean = 0.76 * draw(0.05), (0, -38, 0)
    shell = (long, 0.64, 0.7)
    solids = [
        ellipsoid((-0.06, 0, 0.06), shell, PAINT, lean, low=-0.3),
        ellipsoid((-0.06, 0, 0.06), (long - 0.08, 0.56, 0.62), (0.13, 0.13, 0.14), lean, low=-0.34),
        torus((-0.06, 0, 0.06), long - 0.06, 0.085, "white", (90, 0, 0), flat=1.3, low=-0.1),
        ellipsoid((-0.2, 0, -0.3), (0.5, 0.58, 0.34), PAINT, low=-0.3),
    ]
    for side in (-1, 1):
        solids += [
            ellipsoid((0.18, 0.5 * side, -0.3), (0.32, 0.14, 0.34), PAINT, (0, 20, 0)),
            ellipsoid((-0.06, 0.6 * side, -0.16), (0.1, 0.08, 0.1), "black"),
            sphere((0.3, 0.6 * side, -0.1), 0.06, "steel"),
        ]
    for z in (-0.16, -0.36, -0.56):
        solids.append(torus((0.16, 0, z), 0.6, 0.05, "white", (0, 0, -90), low=0.12))
    solids += [capsule((0.72, y, -0.16), (0.72, y, -0.56), 0.045, "white") for y in (-0.17, 0.17)]
    return Figure(solids, bottom=-0.64)


def star(angle: float, out: float, z: float, size: float) -> list[Solid]:
    """A golden star of six points on the side of something round, ``out`` from its axis."""
    half = (0.06, 0.87 * size, 0.75 * size)
    flat = [prism((0, 0, 0.25 * size), half, "gold"), prism((0, 0, -0.25 * size), half, "gold", (180, 0, 0))]
    return turned(shifted(turned(flat, (0, -24, 0)), (out, 0, z)), (0, 0, angle))


@kind("wizard hat", "witch hat", natural="purple")
def wizard_hat(draw: Draw) -> Figure:
    """A tall hat with a wide brim and golden stars; its tip falls to the back, the buckle of its band is in front."""
    bend, fat = draw(0.2), draw(0.05)
    solids = [
        cylinder((0, 0, -0.62), 0.71, 0.01, PAINT, rounding=0.045),
        ellipsoid((0, 0, -0.6), (0.6, 0.6, 0.1), PAINT),
        cone((0, 0, -0.28), 0.46 * fat, 0.24, 0.34, PAINT, rounding=0.02),
        capsule((0, 0, 0.08), (-0.06 * bend, 0, 0.36), 0.245, PAINT, 0.17),
        capsule((-0.06 * bend, 0, 0.36), (-0.26 * bend, 0, 0.6), 0.17, PAINT, 0.11),
        capsule((-0.26 * bend, 0, 0.6), (-0.52 * bend, 0, 0.62), 0.11, PAINT, 0.05),
        cone((0, 0, -0.46), 0.485 * fat, 0.43 * fat, 0.09, "dark gold", rounding=0.01),
        box((0.46 * fat, 0, -0.46), (0.03, 0.14, 0.12), "yellow", (0, -14, 0)),
        box((0.48 * fat, 0, -0.46), (0.03, 0.07, 0.05), "black", (0, -14, 0)),
        *star(0, 0.33, -0.08, 0.14),
        *star(100, 0.33, -0.1, 0.13),
        *star(-110, 0.34, -0.14, 0.13),
        *star(165, 0.31, -0.04, 0.12),
        *star(-35, 0.2, 0.26, 0.09),
        *star(70, 0.2, 0.24, 0.08),
        *star(-150, 0.23, 0.22, 0.09),
    ]
    return Figure(solids, bottom=-0.7)
