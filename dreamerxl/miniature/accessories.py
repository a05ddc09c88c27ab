"""What a figure can wear, and what it can stand on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dreamerxl.miniature.objects import Ball, Figure
from dreamerxl.miniature.solids import Color, Solid, capsule, cone, cylinder, ellipsoid, scaled, shifted, sphere, torus

TABLE_TOP = -0.46  # height that figures stand on


def hat(head: Ball, color: Color) -> list[Solid]:
    """A hat with a wide brim and a dark band."""
    (x, y, z), r = head
    return [
        cylinder((x, y, z + 0.62 * r), 1.3 * r, 0.05 * r, color, rounding=0.02),
        cone((x, y, z + 1.1 * r), 0.86 * r, 0.72 * r, 0.48 * r, color, rounding=0.02),
        cylinder((x, y, z + 0.75 * r), 0.89 * r, 0.09 * r, "dark grey"),
    ]


def party_hat(head: Ball, color: Color) -> list[Solid]:
    """A pointed paper hat with a pompon."""
    (x, y, z), r = head
    return [
        cone((x, y, z + 1.35 * r), 0.72 * r, 0.06 * r, 0.72 * r, color),
        sphere((x, y, z + 2.1 * r), 0.2 * r, "white"),
    ]


def pirate_hat(head: Ball, color: Color) -> list[Solid]:
    """A black hat turned up in front and behind, a skull and crossed bones on it."""
    (x, y, z), r = head
    front = x + 0.62 * r
    return [
        ellipsoid((x, y, z + 0.6 * r), (1.0 * r, 1.55 * r, 0.2 * r), "black"),
        ellipsoid((x, y, z + 0.6 * r), (0.62 * r, 1.3 * r, 0.95 * r), "black", low=0.0),
        sphere((front - 0.1 * r, y, z + 1.08 * r), 0.26 * r, "white"),
        capsule((front, y - 0.42 * r, z + 0.72 * r), (front - 0.1 * r, y + 0.42 * r, z + 0.95 * r), 0.075 * r, "white"),
        capsule((front, y + 0.42 * r, z + 0.72 * r), (front - 0.1 * r, y - 0.42 * r, z + 0.95 * r), 0.075 * r, "white"),
    ]


def crown(head: Ball, color: Color) -> list[Solid]:
    """A golden crown with five points and a red stone in front."""
    (x, y, z), r = head
    ring = 0.74 * r
    solids = [cylinder((x, y, z + 0.9 * r), ring, 0.2 * r, "gold", hollow=0.12 * r)]
    for i in range(5):
        u, v = ring * math.cos(2 * math.pi * i / 5), ring * math.sin(2 * math.pi * i / 5)
        solids.append(cone((x + u * 0.94, y + v * 0.94, z + 1.3 * r), 0.2 * r, 0.03 * r, 0.22 * r, "gold"))
    return [*solids, sphere((x + ring, y, z + 0.9 * r), 0.14 * r, "red")]


def scarf(neck: Ball, color: Color) -> list[Solid]:
    """A scarf around the neck, one end hanging in front."""
    (x, y, z), r = neck
    tube = max(0.32 * r, 0.075)
    return [
        torus((x, y, z), r, tube, color),
        capsule((x + 0.95 * r, y + 0.5 * r, z - 0.02), (x + 1.15 * r, y + 0.7 * r, z - 0.36), 0.8 * tube, color),
    ]


@dataclass(frozen=True)
class Accessory:
    """Something to wear: on the head or around the neck; its colour if none is said; whether it takes one at all."""

    build: Callable[[Ball, Color], list[Solid]]
    place: str  # "head" or "neck"
    natural: str
    takes_color: bool = True


ACCESSORIES: dict[str, Accessory] = {
    "hat": Accessory(hat, "head", "brown"),
    "party hat": Accessory(party_hat, "head", "pink"),
    "pirate hat": Accessory(pirate_hat, "head", "black", takes_color=False),
    "crown": Accessory(crown, "head", "gold", takes_color=False),
    "scarf": Accessory(scarf, "neck", "red"),
}


def worn_by(figure: Figure) -> list[str]:
    """Names of the accessories that a figure has a place for."""
    return [name for name, accessory in ACCESSORIES.items() if getattr(figure, accessory.place) is not None]


def on_table(solids: list[Solid], bottom: float) -> list[Solid]:
    """The solids, smaller, standing on a round wooden table."""
    small = scaled(solids, 0.72)
    legs = [
        capsule((0.4 * u, 0.4 * v, TABLE_TOP - 0.1), (0.5 * u, 0.5 * v, -0.86), 0.055, "dark wood")
        for u in (-1, 1)
        for v in (-1, 1)
    ]
    top = cylinder((0, 0, TABLE_TOP - 0.05), 0.78, 0.04, "wood")
    return [*shifted(small, (0, 0, TABLE_TOP - 0.72 * bottom)), top, *legs]
