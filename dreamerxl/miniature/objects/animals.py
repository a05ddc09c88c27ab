"""Animals: the coat takes the colour; bellies and muzzles are a pale shade of it."""

from __future__ import annotations

from dreamerxl.miniature.objects.figure import Ball, Draw, Figure, kind
from dreamerxl.miniature.solids import PAINT, Paint, capsule, cone, ellipsoid, sphere

PALE, DARK = Paint(2.2), Paint(0.55)


@kind("teddy bear", "bear", "teddy", natural="brown")
def bear(draw: Draw) -> Figure:
    """A sitting teddy bear with a pale belly, muzzle and soles."""
    fat = draw(0.08)
    solids = [
        ellipsoid((0, 0, -0.3), (0.36 * fat, 0.4 * fat, 0.42), PAINT),
        ellipsoid((0, 0, 0.38), (0.34, 0.38, 0.34), PAINT),
        ellipsoid((0.28 * fat, 0, -0.3), (0.12, 0.26, 0.28), PALE),
        ellipsoid((0.32, 0, 0.3), (0.13, 0.15, 0.12), PALE),
        ellipsoid((0.45, 0, 0.35), (0.05, 0.07, 0.05), "black"),
        sphere((-0.4 * fat, 0, -0.52), 0.12, PAINT),
    ]
    for side in (-1, 1):
        solids += [
            ellipsoid((0, 0.3 * side, 0.68), (0.09, 0.16, 0.16), PAINT),
            ellipsoid((0.06, 0.3 * side, 0.68), (0.06, 0.1, 0.1), PALE),
            sphere((0.3, 0.14 * side, 0.46), 0.055, "black"),
            capsule((0.05, 0.32 * side, -0.08), (0.32, 0.5 * side, -0.25), 0.125, PAINT),
            capsule((0.1, 0.22 * side, -0.6), (0.47, 0.3 * side, -0.66), 0.145, PAINT),
            ellipsoid((0.575, 0.32 * side, -0.66), (0.06, 0.1, 0.1), PALE),
        ]
    return Figure(solids, bottom=-0.8, head=Ball((0, 0, 0.38), 0.36), neck=Ball((0, 0, 0.08), 0.3)).resized(0.975)


@kind("cat", "kitten", "kitty", natural="orange")
def cat(draw: Draw) -> Figure:
    """A sitting cat: pointed ears, green eyes, whiskers, a long tail that curls up behind."""
    fat, tip = draw(0.06), draw.between(0.0, 0.16)
    solids = [
        ellipsoid((-0.12, 0, -0.32), (0.35 * fat, 0.34 * fat, 0.52), PAINT, (0, 14, 0)),
        ellipsoid((0.16, 0, -0.18), (0.15, 0.19, 0.25), PALE, (0, 14, 0)),
        ellipsoid((0.1, 0, 0.38), (0.34, 0.41, 0.33), PAINT),
        ellipsoid((0.38, 0, 0.25), (0.11, 0.18, 0.1), PALE),
        ellipsoid((0.48, 0, 0.31), (0.045, 0.06, 0.04), "pink"),
        capsule((-0.35, 0.08, -0.76), (-0.66, 0.3, -0.58), 0.095, PAINT),
        capsule((-0.66, 0.3, -0.58), (-0.68, 0.42, -0.2), 0.095, PAINT),
        capsule((-0.68, 0.42, -0.2), (-0.52, 0.5, tip), 0.095, DARK),
    ]
    for side in (-1, 1):
        solids += [
            cone((0.06, 0.25 * side, 0.72), 0.19, 0.02, 0.19, PAINT, (-16 * side, 0, 0)),
            cone((0.15, 0.25 * side, 0.7), 0.11, 0.01, 0.14, "pink", (-16 * side, 0, 0)),
            ellipsoid((0.38, 0.16 * side, 0.43), (0.06, 0.085, 0.09), (0.66, 0.88, 0.25)),
            ellipsoid((0.43, 0.16 * side, 0.43), (0.03, 0.033, 0.075), "black"),
            capsule((0.4, 0.12 * side, 0.27), (0.36, 0.5 * side, 0.33), 0.018, "dark grey"),
            capsule((0.4, 0.12 * side, 0.22), (0.36, 0.49 * side, 0.17), 0.018, "dark grey"),
            ellipsoid((-0.12, 0.27 * side * fat, -0.6), (0.3, 0.17, 0.27), PAINT),
            capsule((0.16, 0.14 * side, -0.2), (0.24, 0.15 * side, -0.76), 0.1, PAINT),
            ellipsoid((0.32, 0.16 * side, -0.8), (0.15, 0.11, 0.075), PALE),
        ]
    return Figure(solids, bottom=-0.875, head=Ball((0.1, 0, 0.38), 0.36), neck=Ball((0.06, 0, 0.08), 0.27)).resized(0.97)


@kind("dog", "puppy", natural="brown")
def dog(draw: Draw) -> Figure:
    """A standing dog: long muzzle, tongue out, dark hanging ears, a raised tail, a dark patch on the back."""
    fat, wag = draw(0.08), draw.between(-0.1, 0.1)
    solids = [
        capsule((-0.4, 0, -0.1), (0.18, 0, -0.06), 0.27 * fat, PAINT),
        ellipsoid((-0.3, 0.06, 0.04), (0.24, 0.22 * fat, 0.16), DARK),
        capsule((0.2, 0, 0.0), (0.38, 0, 0.35), 0.21, PAINT),
        ellipsoid((0.42, 0, 0.45), (0.31, 0.32, 0.3), PAINT),
        ellipsoid((0.7, 0, 0.35), (0.22, 0.18, 0.14), PALE),
        ellipsoid((0.88, 0, 0.42), (0.06, 0.085, 0.06), "black"),
        ellipsoid((0.78, 0, 0.2), (0.09, 0.08, 0.1), "pink"),
        ellipsoid((0.6, 0.13, 0.55), (0.12, 0.12, 0.13), DARK),
        capsule((-0.6, 0, 0.0), (-0.82, wag, 0.42), 0.1, PAINT, 0.06),
    ]
    for side in (-1, 1):
        solids += [
            sphere((0.68, 0.13 * side, 0.57), 0.058, "black"),
            ellipsoid((0.36, 0.34 * side, 0.42), (0.15, 0.075, 0.3), DARK, (12 * side, 0, 0)),
        ]
        for x in (-0.46, 0.24):
            solids += [
                capsule((x, 0.17 * side * fat, -0.15), (x, 0.17 * side * fat, -0.7), 0.115, PAINT),
                ellipsoid((x + 0.06, 0.17 * side * fat, -0.75), (0.17, 0.125, 0.09), PALE),
            ]
    return Figure(solids, bottom=-0.84, head=Ball((0.42, 0, 0.45), 0.32), neck=Ball((0.27, 0, 0.15), 0.25)).resized(0.96)


@kind("penguin", natural="black")
def penguin(draw: Draw) -> Figure:
    """A penguin: white belly and face, orange beak and feet; its coat takes the colour."""
    fat, spread = draw(0.08), draw.between(14, 26)
    solids = [
        ellipsoid((0, 0, -0.24), (0.42 * fat, 0.47 * fat, 0.6), PAINT),
        ellipsoid((0.14 * fat, 0, -0.32), (0.33 * fat, 0.33 * fat, 0.47), "white"),
        sphere((0.02, 0, 0.5), 0.36, PAINT),
        cone((0.42, 0, 0.43), 0.1, 0.015, 0.14, "orange", (0, 90, 0)),
        ellipsoid((-0.38, 0, -0.68), (0.2, 0.16, 0.08), PAINT, (0, 30, 0)),
    ]
    for side in (-1, 1):
        solids += [
            ellipsoid((0.18, 0.13 * side, 0.5), (0.2, 0.16, 0.2), "white"),
            sphere((0.36, 0.12 * side, 0.54), 0.055, "black"),
            ellipsoid((-0.02, 0.52 * side * fat, -0.16), (0.18, 0.08, 0.4), PAINT, (spread * side, 0, 0)),
            ellipsoid((0.16, 0.21 * side, -0.82), (0.27, 0.17, 0.075), "orange", (0, 0, 12 * side)),
        ]
    return Figure(solids, bottom=-0.89, head=Ball((0.02, 0, 0.5), 0.35), neck=Ball((0.01, 0, 0.19), 0.34))


@kind("owl", natural="brown")
def owl(draw: Draw) -> Figure:
    """An owl: large eyes in pale discs, ear tufts, a feathered belly, folded wings, a tail."""
    fat = draw(0.07)
    solids = [
        ellipsoid((0, 0, -0.22), (0.46 * fat, 0.5 * fat, 0.6), PAINT),
        ellipsoid((0.02, 0, 0.38), (0.43, 0.5, 0.4), PAINT),
        ellipsoid((0.2 * fat, 0, -0.28), (0.3 * fat, 0.34 * fat, 0.42), "cream"),
        cone((0.48, 0, 0.25), 0.08, 0.01, 0.13, "orange", (0, 150, 0)),
        ellipsoid((-0.4, 0, -0.58), (0.1, 0.22, 0.3), DARK, (0, 25, 0)),
    ]
    solids += [
        ellipsoid((0.478 * fat, y * fat, z), (0.03, 0.06, 0.05), DARK)
        for y, z in ((-0.12, -0.14), (0.12, -0.14), (0, -0.27), (-0.12, -0.4), (0.12, -0.4))
    ]
    for side in (-1, 1):
        solids += [
            ellipsoid((0.34, 0.19 * side, 0.42), (0.1, 0.21, 0.22), "cream", (0, 0, 22 * side)),
            ellipsoid((0.41, 0.19 * side, 0.42), (0.06, 0.13, 0.13), "yellow", (0, 0, 22 * side)),
            ellipsoid((0.46, 0.19 * side, 0.42), (0.03, 0.075, 0.075), "black", (0, 0, 22 * side)),
            cone((0.06, 0.32 * side, 0.76), 0.15, 0.02, 0.16, PAINT, (-26 * side, 0, 0)),
            ellipsoid((-0.1, 0.47 * side * fat, -0.22), (0.3, 0.12, 0.46), Paint(0.75), (8 * side, 12, 0)),
            ellipsoid((0.2, 0.18 * side, -0.82), (0.2, 0.13, 0.07), "orange"),
        ]
    return Figure(solids, bottom=-0.89, head=Ball((0.02, 0, 0.38), 0.43), neck=Ball((0.02, 0, 0.08), 0.42)).resized(0.98)


@kind("elephant", natural="grey")
def elephant(draw: Draw) -> Figure:
    """A standing elephant: large ears, a trunk with a curled tip, white tusks, a thin tail."""
    fat, ears = draw(0.06), draw(0.08)
    solids = [
        ellipsoid((-0.24, 0, -0.02), (0.54, 0.43 * fat, 0.43), PAINT),
        sphere((0.34, 0, 0.26), 0.34, PAINT),
        capsule((0.6, 0, 0.2), (0.74, 0, -0.14), 0.15, PAINT, 0.12),
        capsule((0.74, 0, -0.14), (0.73, 0, -0.44), 0.12, PAINT, 0.1),
        capsule((0.73, 0, -0.44), (0.87, 0, -0.54), 0.1, PAINT, 0.08),
        capsule((-0.74, 0, 0.05), (-0.86, 0, -0.36), 0.04, PAINT),
        ellipsoid((-0.87, 0, -0.42), (0.07, 0.07, 0.11), "dark grey"),
    ]
    for side in (-1, 1):
        solids += [
            ellipsoid((0.12, 0.48 * side, 0.27), (0.07, 0.34 * ears, 0.4 * ears), PAINT, (0, 0, 36 * side)),
            ellipsoid((0.155, 0.505 * side, 0.26), (0.055, 0.23 * ears, 0.28 * ears), "pink", (0, 0, 36 * side)),
            sphere((0.6, 0.19 * side, 0.38), 0.055, "black"),
            capsule((0.56, 0.19 * side, 0.06), (0.84, 0.23 * side, -0.05), 0.055, "white", 0.03),
        ]
        for x in (-0.5, 0.06):
            solids += [
                capsule((x, 0.24 * side, -0.2), (x, 0.24 * side, -0.68), 0.165, PAINT),
                ellipsoid((x + 0.1, 0.24 * side, -0.76), (0.1, 0.13, 0.07), PALE),
            ]
    return Figure(solids, bottom=-0.845, head=Ball((0.34, 0, 0.28), 0.34), neck=Ball((0.14, 0, 0.14), 0.36)).resized(0.9)
