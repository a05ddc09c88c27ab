"""What an object is: a function from random proportions to solids, entered in the catalogue under its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dreamerxl.miniature.solids import Solid, Triple, scaled


class Ball(NamedTuple):
    """A place on a figure, roughly round."""

    center: Triple
    radius: float


@dataclass(frozen=True)
class Figure:
    """An object's solids inside the unit ball, z up, facing +x; where a hat sits and a scarf goes, if anywhere."""

    solids: list[Solid]
    bottom: float  # height of the lowest point
    head: Ball | None = None
    neck: Ball | None = None

    def resized(self, factor: float) -> Figure:
        """The figure larger or smaller about the origin: proportions are drawn first, then fitted to the unit ball."""
        head, neck = (
            None if place is None else Ball(tuple(factor * v for v in place.center), factor * place.radius)  # pyright: ignore[reportArgumentType]
            for place in (self.head, self.neck)
        )
        return Figure(scaled(self.solids, factor), factor * self.bottom, head, neck)


class Draw:
    """Random proportions of one scene, from an explicit generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def __call__(self, amount: float = 0.1) -> float:
        """A factor, uniform in 1 - amount .. 1 + amount."""
        return 1.0 + amount * float(self.generator.uniform(-1, 1))

    def between(self, low: float, high: float) -> float:
        """A number, uniform in low .. high."""
        return float(self.generator.uniform(low, high))


Build = Callable[[Draw], Figure]


@dataclass(frozen=True)
class Kind:
    """An object of the catalogue."""

    name: str
    nouns: tuple[str, ...]  # what people call it, the usual word first
    natural: str  # the colour that it has when none is asked for
    build: Build


OBJECTS: dict[str, Kind] = {}


def kind(*nouns: str, natural: str) -> Callable[[Build], Build]:
    """Enter a function in the catalogue under its own name."""

    def enter(build: Build) -> Build:
        name = build.__name__.replace("_", " ")
        OBJECTS[name] = Kind(name, nouns or (name,), natural, build)
        return build

    return enter
