"""Things to eat."""

from __future__ import annotations

import math

from dreamerxl.miniature.objects.figure import Draw, Figure, kind
from dreamerxl.miniature.solids import PAINT, Triple, box, capsule, cone, cylinder, ellipsoid, prism, sphere, torus, turned

GOLDEN_ANGLE = 2.4  # radians; steps of it spread points evenly


@kind("donut", "doughnut", natural="pink")
def donut(draw: Draw) -> Figure:
    """A ring of dough tilted to the front, coloured icing that runs down its side, sprinkles."""
    ring, tube, tilt = 0.54, 0.27 * draw(0.07), 22
    solids = [torus((0, 0, 0), ring, tube, "dough"), torus((0, 0, 0.05), ring, tube + 0.012, PAINT)]
    for i in range(7):
        angle, run = 2 * math.pi * i / 7, 0.07 + 0.05 * (i % 3)
        u, v = (ring + tube - 0.03) * math.cos(angle), (ring + tube - 0.03) * math.sin(angle)
        solids.append(ellipsoid((u, v, -0.02), (0.09, 0.09, run + 0.06), PAINT))
    for i in range(14):
        angle, offset = GOLDEN_ANGLE * i, 0.7 * tube * math.sin(1.7 * i)
        u, v, height = math.cos(angle), math.sin(angle), 0.05 + math.sqrt(tube**2 - offset**2)
        sprinkle = ("white", "yellow", "blue", "red")[i % 4]
        center = (u * (ring + offset), v * (ring + offset), height)
        solids.append(ellipsoid(center, (0.08, 0.04, 0.04), sprinkle, (0, 0, 50.0 * i)))
    bottom = -ring * math.sin(math.radians(tilt)) - tube - 0.012
    return Figure(turned(solids, (0, tilt, 0)), bottom)


@kind("apple", natural="red")
def apple(draw: Draw) -> Figure:
    """An apple: dimpled, narrower below, a stem and one large leaf to the left."""
    fat = draw(0.06)
    solids = [
        torus((0, 0, 0.02), 0.32 * fat, 0.48, PAINT),
        ellipsoid((0, 0, 0.02), (0.32 * fat + 0.48, 0.32 * fat + 0.48, 0.8), PAINT, high=0.0),
        capsule((0, 0, 0.3), (-0.1, -0.05, 0.82), 0.05, "brown", 0.065),
        ellipsoid((0.06, 0.28, 0.68), (0.17, 0.32, 0.05), "green", (24, 0, -12)),
    ]
    return Figure(solids, bottom=-0.78)


@kind("pumpkin", "halloween pumpkin", natural="orange")
def pumpkin(draw: Draw) -> Figure:
    """A ribbed pumpkin with a face cut into its front, a green stem bent to the left."""
    tall, count, black = draw(0.08), 10, "black"
    solids = []
    for i in range(count):
        angle = 360 * i / count
        u, v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        solids.append(ellipsoid((0.46 * u, 0.46 * v, -0.12), (0.38, 0.25, 0.6 * tall), PAINT, (0, 0, angle)))
    solids += [
        cone((0, 0, 0.5 * tall), 0.16, 0.1, 0.14, "dark green", rounding=0.02),
        capsule((0, 0, 0.56 * tall), (-0.02, 0.2, 0.56 * tall + 0.2), 0.1, "dark green"),
        prism((0.78, 0, -0.1), (0.08, 0.07, 0.07), black),
        ellipsoid((0.74, 0, -0.22), (0.11, 0.34, 0.2), black, high=-0.02),
        box((0.8, -0.09, -0.27), (0.05, 0.04, 0.03), PAINT),
        box((0.8, 0.1, -0.37), (0.05, 0.04, 0.03), PAINT),
    ]
    for side in (-1, 1):
        solids.append(prism((0.74, 0.24 * side, 0.12), (0.1, 0.14, 0.12), black, (0, 0, 16 * side)))
    return Figure(solids, bottom=-0.12 - 0.6 * tall)


@kind("cupcake", "muffin", natural="pink")
def cupcake(draw: Draw) -> Figure:
    """A cupcake: coloured frosting in swirls, a paper cup, a cherry on top and a wafer at the back."""
    fat = draw(0.07)
    cup: Triple = (0.62, 0.42, 0.26)
    solids = [
        cone((0, 0, -0.56), 0.4, 0.52, 0.28, cup, rounding=0.02),
        ellipsoid((0, 0, -0.16), (0.68 * fat, 0.68 * fat, 0.22), PAINT),
        ellipsoid((0, 0, 0.1), (0.54 * fat, 0.54 * fat, 0.21), PAINT),
        ellipsoid((0, 0, 0.35), (0.38 * fat, 0.38 * fat, 0.2), PAINT),
        sphere((0.02, 0, 0.62), 0.16, "red"),
        capsule((0.02, 0, 0.74), (-0.05, 0.06, 0.9), 0.02, "dark green"),
        capsule((-0.24, 0.22, 0.1), (-0.44, 0.44, 0.62), 0.09, "dough"),
    ]
    for i in range(10):
        angle = 2 * math.pi * (i + 0.5) / 10
        u, v = math.cos(angle), math.sin(angle)
        solids.append(capsule((0.43 * u, 0.43 * v, -0.82), (0.545 * u, 0.545 * v, -0.28), 0.03, "cream"))
    for i in range(9):
        angle, (ring, height) = GOLDEN_ANGLE * i, ((0.6, -0.04), (0.48, 0.2), (0.33, 0.46))[i % 3]
        center = (ring * fat * math.cos(angle), ring * fat * math.sin(angle), height)
        solids.append(sphere(center, 0.042, ("white", "yellow", "turquoise")[(i // 3) % 3]))
    return Figure(solids, bottom=-0.86)


@kind("ice cream", "ice cream cone", natural="pink")
def ice_cream(draw: Draw) -> Figure:
    """Scoops of ice cream in a waffle cone, running down in front; a wafer at the back."""
    k = draw(0.06)
    solids = [
        cone((0, 0, -0.52), 0.05, 0.36, 0.4, "dough"),
        torus((0, 0, -0.12), 0.35, 0.06, "dough"),
        sphere((0, 0, 0.08), 0.42 * k, PAINT),
        torus((0, 0, -0.03), 0.36 * k, 0.1, PAINT),
        sphere((0, 0, 0.52), 0.34 * k, PAINT),
        torus((0, 0, 0.4), 0.28 * k, 0.08, PAINT),
        capsule((0.4, 0.06, 0), (0.36, 0.06, -0.32), 0.09, PAINT),
        capsule((0.37, -0.14, 0), (0.32, -0.14, -0.2), 0.08, PAINT),
        capsule((-0.12, 0.1, 0.6), (-0.36, 0.34, 0.84), 0.07, (0.72, 0.45, 0.2)),
    ]
    for i in range(6):
        start, end = 2 * math.pi * i / 6, 2 * math.pi * (i + 1.5) / 6
        for a, b in ((start, end), (end, start)):
            top = (0.35 * math.cos(a), 0.35 * math.sin(a), -0.14)
            solids.append(capsule(top, (0.12 * math.cos(b), 0.12 * math.sin(b), -0.76), 0.02, (0.66, 0.42, 0.18)))
    return Figure(solids, bottom=-0.92).resized(0.95)


@kind("hamburger", "burger", natural="orange")
def hamburger(draw: Draw) -> Figure:
    """A hamburger: a coloured bun with sesame seeds; patty, tomato, lettuce, and cheese that hangs over in front."""
    fat, high = draw(0.06), 0.54 * draw(0.06)
    solids = [
        ellipsoid((0, 0, 0.1), (0.82 * fat, 0.82 * fat, high), PAINT, low=0.0),
        cylinder((0, 0, -0.46), 0.66 * fat, 0.06, PAINT, rounding=0.1),
        cylinder((0, 0, -0.22), 0.72 * fat, 0.04, (0.30, 0.14, 0.07), rounding=0.07),
        box((0.06, 0, -0.09), (0.55 * fat, 0.55 * fat, 0.012), "yellow", (0, 0, 45)),
        prism((0.81 * fat, 0, -0.2), (0.025, 0.3, 0.13), "yellow", (180, 0, 0)),
        cylinder((0, 0, -0.02), 0.68 * fat, 0.02, "red", rounding=0.04),
    ]
    for i in range(8):
        angle = 360 * i / 8 + 10
        u, v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        tilt = 12 if i % 2 else -12
        solids.append(ellipsoid((0.6 * fat * u, 0.6 * fat * v, 0.06), (0.24, 0.3, 0.05), "green", (tilt, 14, angle)))
    for i in range(13):
        angle, ring = GOLDEN_ANGLE * i, 0.16 + 0.6 * i / 13
        height = 0.1 + high * math.sqrt(1 - ring**2)
        center = (0.82 * fat * ring * math.cos(angle), 0.82 * fat * ring * math.sin(angle), height)
        solids.append(ellipsoid(center, (0.06, 0.038, 0.03), "cream", (0, 0, math.degrees(angle))))
    return Figure(solids, bottom=-0.62)
