"""The world that the embedded model knows: things, drawn at random or named, built into scenes.

A thing is an object of the catalogue with what a prompt can say of it: a colour or a material, a pattern, something to
wear, a table to stand on. Its scene has random proportions, size and pose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dreamerxl.miniature.accessories import ACCESSORIES, TABLE_TOP, on_table, worn_by
from dreamerxl.miniature.jumble import jumble
from dreamerxl.miniature.objects import OBJECTS, Draw
from dreamerxl.miniature.render import Scene
from dreamerxl.miniature.solids import GLOSSY, GOLDEN, MATTE, PALETTE, SPOTTED, STRIPED, WOODEN, Coat, scaled, table, turned

COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "white", "black", "brown", "grey", "turquoise")
MATERIALS = {"wooden": ("wood", WOODEN), "golden": ("gold", GOLDEN)}  # take the place of a colour
PATTERNS = {"plain": MATTE, "striped": STRIPED, "spotted": SPOTTED, "glossy": GLOSSY}
COATS = (*COLORS, *MATERIALS)  # what the painted parts of a thing look like, to the eye


@dataclass(frozen=True)
class Thing:
    """What a picture shows, in words. Empty strings say nothing."""

    object: str  # of OBJECTS; empty: a jumble of solids in a coat
    coat: str = ""  # of COATS; empty: the object's natural colour
    pattern: str = ""  # of PATTERNS
    wears: str = ""  # of ACCESSORIES
    wears_color: str = ""  # of COLORS
    on_table: bool = False

    @property
    def seen_coat(self) -> str:
        """The colour or material that a viewer would name."""
        return self.coat or OBJECTS[self.object].natural


def is_reserved(thing: Thing) -> bool:
    """One coat of each object, kept from the judge's training to ask it about unseen combinations."""
    return (5 * list(OBJECTS).index(thing.object) + 3 * COATS.index(thing.seen_coat)) % len(COATS) == 0


PLACES = {name: worn_by(kind.build(Draw(np.random.default_rng(0)))) for name, kind in OBJECTS.items()}  # what each can wear


def draw_thing(name: str, generator: np.random.Generator, allowed: Callable[[Thing], bool] = lambda _: True) -> Thing:
    """A random thing of one object; draws again until ``allowed`` accepts it."""
    while True:
        kind, coat, pattern = generator.random(), "", ""
        if kind < 0.70:
            coat = COLORS[generator.integers(len(COLORS))]
        elif kind < 0.82:
            coat = tuple(MATERIALS)[generator.integers(len(MATERIALS))]
        if (coat or OBJECTS[name].natural) not in MATERIALS and generator.random() < 0.32:  # wood and gold show no pattern
            pattern = ("striped", "spotted", "glossy")[generator.integers(3)]
        thing = Thing(name, coat, pattern, on_table=generator.random() < 0.07)
        if PLACES[name] and generator.random() < 0.25:
            wears = PLACES[name][generator.integers(len(PLACES[name]))]
            said = ACCESSORIES[wears].takes_color and generator.random() < 0.7
            thing = replace(thing, wears=wears, wears_color=COLORS[generator.integers(len(COLORS))] if said else "")
        if allowed(thing):
            return thing


def draw_jumble(generator: np.random.Generator) -> Thing:
    """A random thing without a name: every coat as often, a pattern where the coat can show one."""
    coat = COATS[generator.integers(len(COATS))]
    plain = coat in MATERIALS or generator.random() < 0.68
    return Thing("", coat, "" if plain else ("striped", "spotted", "glossy")[generator.integers(3)])


def build_scene(thing: Thing, generator: np.random.Generator) -> Scene:
    """One scene of a thing: proportions, tint, size, pose and contact shadow from the generator."""
    build = OBJECTS[thing.object].build if thing.object else jumble
    figure = build(Draw(generator))
    solids, bottom = list(figure.solids), figure.bottom
    if thing.wears:
        accessory = ACCESSORIES[thing.wears]
        place = figure.head if accessory.place == "head" else figure.neck
        if place is None:
            raise ValueError(f"a {thing.object} has no place for a {thing.wears}")
        solids += accessory.build(place, PALETTE[thing.wears_color or accessory.natural])
        solids, bottom = scaled(solids, 0.88, (0, 0, -0.3)), 0.88 * (bottom + 0.3) - 0.3
    if thing.on_table:
        solids, bottom = on_table(solids, bottom), -0.92
    size = generator.uniform(0.9, 1.0)
    solids = turned(scaled(solids, size), (0, 0, generator.uniform(-6, 6)))
    name, finish = MATERIALS.get(thing.seen_coat, (thing.seen_coat, PATTERNS[thing.pattern or "plain"]))
    tint = generator.uniform(-0.025, 0.025, 3)
    color = tuple(float(c) for c in np.clip(np.add(PALETTE[name], tint), 0.02, 1))
    shadow = generator.uniform(0.25, 0.5) if generator.random() < 0.12 else 0.0
    return Scene(table(solids, Coat(color, finish)), shadow, size * bottom)  # pyright: ignore[reportArgumentType]


__all__ = ["COATS", "COLORS", "MATERIALS", "PATTERNS", "PLACES", "TABLE_TOP", "Thing", "build_scene", "draw_jumble", "draw_thing"]
