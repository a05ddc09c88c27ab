"""Jumbles: solids put together at random, an object of no name.

They teach the judge what a colour or a material is apart from the objects that it has seen in it, so that it knows a white
castle when every castle so far was of another colour.
"""

from __future__ import annotations

from dreamerxl.miniature.objects.figure import Draw, Figure
from dreamerxl.miniature.solids import PAINT, Color, Paint, Solid, Triple, box, capsule, cone, cylinder, ellipsoid, prism, torus

DETAILS = ("dark wood", "gold", "steel", "cream", "black", "dark grey", "dark green", "glass", "white", "skin")  # never painted


def jumble(draw: Draw) -> Figure:
    """Three to eight solids about the origin, at least half of them painted, in shades of the paint as objects have them."""
    pick = draw.generator.integers
    solids = [_solid(draw, 1.0, PAINT)]
    for index in range(int(pick(2, 8))):
        kind = draw.generator.random()
        shade = Paint(draw.between(0.5, 1.0)) if kind < 0.25 else PAINT
        color = DETAILS[pick(len(DETAILS))] if kind > 0.7 and index % 2 else shade
        solids.append(_solid(draw, draw.between(0.25, 0.8), color))
    return Figure(solids, bottom=-0.86).resized(draw.between(0.85, 1.15))


def _solid(draw: Draw, size: float, color: Color) -> Solid:
    """One solid of about that size, anywhere it fits, turned any way."""

    def some(low: float, high: float) -> float:
        return size * draw.between(low, high)

    spread = 0.62 * (1.1 - size)
    center: Triple = (draw.between(-spread, spread), draw.between(-spread, spread), draw.between(-spread, spread))
    turn: Triple = (0, 0, draw.between(0, 180))
    if draw.generator.random() < 0.5:
        turn = (draw.between(0, 180), draw.between(0, 180), turn[2])
    kind = draw.generator.integers(7)
    if kind == 0:
        return box(center, (some(0.15, 0.5), some(0.15, 0.5), some(0.1, 0.5)), color, turn)
    if kind == 1:
        return ellipsoid(center, (some(0.2, 0.6), some(0.2, 0.6), some(0.2, 0.6)), color, turn)
    if kind == 2:
        return cylinder(center, some(0.12, 0.45), some(0.1, 0.55), color, turn)
    if kind == 3:
        return cone(center, some(0.25, 0.5), some(0.0, 0.2), some(0.2, 0.5), color, turn)
    if kind == 4:
        return torus(center, some(0.25, 0.45), some(0.06, 0.16), color, turn)
    if kind == 5:
        return prism(center, (some(0.2, 0.5), some(0.2, 0.5), some(0.15, 0.4)), color, turn)
    end: Triple = (center[0] + some(-0.5, 0.5), center[1] + some(-0.5, 0.5), center[2] + some(0.1, 0.6))
    return capsule(center, end, some(0.05, 0.2), color)
