"""Ten objects made of simple solids, each with a front (+x), sides, a back and a part that takes the prompt's colour.

An object is a function of (color [B, 3], Jitter) that returns its parts. Everything stays inside the unit ball, z is
up. Proportions vary from render to render, so that the model learns the kind of thing and not one thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dreamerxl.miniature.language import COLORS
from dreamerxl.miniature.shapes import Point, above, box, capsule, cone, cylinder, ellipsoid, sphere, torus


class Part(NamedTuple):
    """A solid of one colour: distance of a point [B, M], colour [B, 3]."""

    distance: Callable[[Point], Tensor]
    color: Tensor


class Jitter:
    """Random proportions, one draw a scene, from an explicit generator."""

    def __init__(self, batch: int, generator: torch.Generator, device: torch.device) -> None:
        self.batch, self.generator, self.device = batch, generator, device

    def __call__(self, amount: float = 0.1) -> Tensor:
        """Factors [B, 1], uniform in 1 - amount .. 1 + amount."""
        return (1 + amount * (2 * torch.rand(self.batch, 1, generator=self.generator) - 1)).to(self.device)


def named(name: str, color: Tensor, blend: float = 0.0) -> Tensor:
    """A fixed colour [B, 3], optionally blended with the prompt's colour."""
    fixed = torch.tensor(COLORS[name], device=color.device).expand_as(color)
    return fixed * (1 - blend) + color * blend


def shade(color: Tensor, factor: float) -> Tensor:
    """A darker (factor < 1) or lighter variant of a colour."""
    return color * factor if factor <= 1 else 1 - (1 - color) / factor


def snowman(color: Tensor, jitter: Jitter) -> list[Part]:
    """Three snowballs, carrot nose, coal eyes and buttons, stick arms; hat and scarf take the colour."""
    k, white, black = jitter(0.08), named("white", color), named("black", color)
    parts = [
        Part(lambda p: sphere(p, (0, 0, -0.52), 0.42 * k), white),
        Part(lambda p: sphere(p, (0, 0, 0.05), 0.31 * k), white),
        Part(lambda p: sphere(p, (0, 0, 0.49), 0.23 * k), white),
        Part(lambda p: capsule(p, (0.2, 0, 0.49), (0.44, 0, 0.46), 0.045), named("orange", color)),
        Part(lambda p: torus(p, (0, 0, 0.31), 0.2, 0.075), color),
        Part(lambda p: capsule(p, (0.2, 0.12, 0.3), (0.3, 0.16, 0.02), 0.06), color),
        Part(lambda p: cylinder(p, (0, 0, 0.68), 0.28, 0.02), color),
        Part(lambda p: cylinder(p, (0, 0, 0.82), 0.17, 0.12), color),
    ]
    for side in (-1, 1):
        parts.append(Part(lambda p, s=side: sphere(p, (0.19, 0.09 * s, 0.57), 0.042), black))
        parts.append(Part(lambda p, s=side: capsule(p, (0, 0.25 * s, 0.1), (0.1, 0.62 * s, 0.27), 0.035), named("brown", color)))
    for height in (-0.02, 0.13):
        parts.append(Part(lambda p, h=height: sphere(p, (0.3 * k, 0, h), 0.042), black))
    return parts


def mushroom(color: Tensor, jitter: Jitter) -> list[Part]:
    """A white stem under a coloured cap with white spots."""
    wide, tall, white = jitter(), jitter(), named("white", color)
    cream = white * torch.tensor([1.0, 0.95, 0.85], device=color.device)
    parts = [
        Part(lambda p: cone(p, (0, 0, -0.36), 0.22, 0.16, 0.45), cream),
        Part(lambda p: torus(p, (0, 0, -0.05), 0.17, 0.05), cream),
        Part(lambda p: above(p, ellipsoid(p, (0, 0, 0.05), (0.66 * wide, 0.66 * wide, 0.55 * tall)), 0.08), color),
    ]
    for i in range(10):
        angle, height = 2.4 * i, 0.14 + 0.042 * i
        ring = math.sqrt(max(0.0, 1 - ((height - 0.05) / 0.55) ** 2)) * 0.64
        u, v = ring * math.cos(angle), ring * math.sin(angle)
        parts.append(Part(lambda p, u=u, v=v, h=height: sphere(p, (u * wide, v * wide, 0.05 + (h - 0.05) * tall), 0.095), white))
    return parts


def chair(color: Tensor, jitter: Jitter) -> list[Part]:
    """A coloured seat and back, four wooden legs; one sits on it looking forward."""
    w, tall, wood = jitter(), jitter(), named("brown", color)
    parts = [
        Part(lambda p: box(p, (0, 0, -0.1), (0.4, 0.4 * w, 0.05)), color),
        Part(lambda p: box(p, (-0.37, 0, 0.02 + 0.36 * tall), (0.035, 0.4 * w, 0.4 * tall)), color),
    ]
    for x in (-0.34, 0.34):
        for side in (-1, 1):
            parts.append(Part(lambda p, x=x, s=side: box(p, (x, 0.34 * s * w, -0.5), (0.05, 0.05, 0.36)), wood))
    return parts


def table(color: Tensor, jitter: Jitter) -> list[Part]:
    """A round coloured top on four wooden legs."""
    wide, wood = jitter(), named("brown", color)
    parts = [Part(lambda p: cylinder(p, (0, 0, 0.22), 0.78 * wide, 0.055), color)]
    for x in (-1, 1):
        for y in (-1, 1):
            parts.append(Part(lambda p, x=x, y=y: cylinder(p, (0.42 * x * wide, 0.42 * y * wide, -0.25), 0.065, 0.43), wood))
    return parts


def bear(color: Tensor, jitter: Jitter) -> list[Part]:
    """A sitting teddy bear with a pale belly and muzzle."""
    fat, black, pale = jitter(), named("black", color), shade(color, 2.2)
    parts = [
        Part(lambda p: ellipsoid(p, (0, 0, -0.3), (0.36 * fat, 0.4 * fat, 0.42)), color),
        Part(lambda p: ellipsoid(p, (0, 0, 0.38), (0.34, 0.38, 0.34)), color),
        Part(lambda p: ellipsoid(p, (0.28 * fat, 0, -0.3), (0.12, 0.26, 0.28)), pale),
        Part(lambda p: ellipsoid(p, (0.32, 0, 0.3), (0.13, 0.15, 0.12)), pale),
        Part(lambda p: ellipsoid(p, (0.45, 0, 0.35), (0.05, 0.06, 0.045)), black),
        Part(lambda p: sphere(p, (-0.38 * fat, 0, -0.52), 0.1), color),
    ]
    for side in (-1, 1):
        parts += [
            Part(lambda p, s=side: ellipsoid(p, (0, 0.3 * s, 0.68), (0.09, 0.15, 0.15)), color),
            Part(lambda p, s=side: ellipsoid(p, (0.06, 0.3 * s, 0.68), (0.06, 0.1, 0.1)), pale),
            Part(lambda p, s=side: sphere(p, (0.3, 0.14 * s, 0.46), 0.05), black),
            Part(lambda p, s=side: capsule(p, (0.05, 0.32 * s, -0.08), (0.32, 0.5 * s, -0.25), 0.125), color),
            Part(lambda p, s=side: capsule(p, (0.1, 0.22 * s, -0.6), (0.47, 0.3 * s, -0.66), 0.145), color),
            Part(lambda p, s=side: ellipsoid(p, (0.575, 0.33 * s, -0.66), (0.06, 0.1, 0.1)), pale),
        ]
    return parts


def rocket(color: Tensor, jitter: Jitter) -> list[Part]:
    """A white hull with a coloured nose and fins, one round window in front."""
    fat, white, black = jitter(), named("white", color), named("black", color)

    def hull(p: Point, grow: float = 0.0) -> Tensor:
        return ellipsoid(p, (0, 0, 0.08), (0.28 * fat + grow, 0.28 * fat + grow, 0.86 + grow))

    parts = [
        Part(lambda p: above(p, hull(p), -0.66), white),
        Part(lambda p: above(p, hull(p, 0.012), 0.48), color),
        Part(lambda p: sphere(p, (0.2 * fat, 0, 0.2), 0.12), named("blue", color)),
        Part(lambda p: torus(p, (0, 0, -0.38), 0.235 * fat, 0.035), color),
        Part(lambda p: cone(p, (0, 0, -0.74), 0.2, 0.13, 0.1), black),
    ]
    for i in range(4):
        u, v = math.cos((i + 0.5) * math.pi / 2), math.sin((i + 0.5) * math.pi / 2)
        parts.append(Part(lambda p, u=u, v=v: capsule(p, (0.2 * u, 0.2 * v, -0.32), (0.5 * u, 0.5 * v, -0.76), 0.075), color))
    return parts


def cactus(color: Tensor, jitter: Jitter) -> list[Part]:
    """A green cactus with two raised arms in a coloured pot, a pink flower on top."""
    tall, green = jitter(), named("green", color)
    return [
        Part(lambda p: capsule(p, (0, 0, -0.4), (0, 0, 0.55 * tall), 0.2), green),
        Part(lambda p: capsule(p, (0, 0.1, 0.0), (0, 0.46, 0.05), 0.11), green),
        Part(lambda p: capsule(p, (0, 0.46, 0.05), (0, 0.46, 0.38 * tall), 0.11), green),
        Part(lambda p: capsule(p, (0, -0.1, 0.14), (0, -0.43, 0.19), 0.1), green),
        Part(lambda p: capsule(p, (0, -0.43, 0.19), (0, -0.43, 0.5 * tall), 0.1), green),
        Part(lambda p: ellipsoid(p, (0.03, 0, 0.2 + 0.55 * tall), (0.11, 0.11, 0.07)), named("pink", color)),
        Part(lambda p: cone(p, (0, 0, -0.64), 0.27, 0.4, 0.22), color),
        Part(lambda p: cylinder(p, (0, 0, -0.44), 0.43, 0.045), color),
    ]


def donut(color: Tensor, jitter: Jitter) -> list[Part]:
    """A lying ring of dough, coloured icing on top, sprinkles."""
    ring, tube = 0.5, 0.27
    fat = jitter(0.08)
    dough = named("brown", color) * 0.55 + 0.38
    parts = [
        Part(lambda p: torus(p, (0, 0, 0), ring, (tube - 0.012) * fat), dough),
        Part(lambda p: above(p, torus(p, (0, 0, 0.01), ring, tube * fat), 0.0), color),
    ]
    for i in range(16):
        angle, offset = 2.4 * i, 0.16 * math.sin(1.7 * i)
        u, v, h = math.cos(angle), math.sin(angle), 0.01 + math.sqrt(tube**2 - offset**2)
        sprinkle = named(("white", "yellow", "blue", "red")[i % 4], color)
        parts.append(
            Part(lambda p, u=u, v=v, o=offset, h=h: sphere(p, (u * (ring + o), v * (ring + o), h * fat), 0.05), sprinkle)
        )
    return parts


def house(color: Tensor, jitter: Jitter) -> list[Part]:
    """White walls under a coloured gable roof; door and windows in front, windows at the sides, chimney behind."""
    wide, wall = jitter(0.08), named("white", color) * 0.92
    glass = named("blue", color) * 0.6 + 0.3

    def gable(p: Point, ridge: float, half: float) -> Tensor:
        slope = (p[2] - ridge + p[1].abs() * 0.75) * 0.8
        return torch.maximum(slope, torch.maximum(p[0].abs() - half, 0.08 - p[2]))

    parts = [
        Part(lambda p: box(p, (0, 0, -0.3), (0.48, 0.54 * wide, 0.4)), wall),
        Part(lambda p: torch.maximum(gable(p, 0.62, 0.49), p[1].abs() - 0.54 * wide), wall),
        Part(lambda p: gable(p, 0.66, 0.6), color),
        Part(lambda p: box(p, (0.5, 0, -0.45), (0.02, 0.13, 0.24)), named("brown", color)),
        Part(lambda p: sphere(p, (0.54, 0.08, -0.44), 0.03), named("yellow", color)),
        Part(lambda p: box(p, (-0.2, 0.28, 0.52), (0.09, 0.09, 0.24)), named("red", color) * 0.65),
    ]
    for side in (-1, 1):
        parts.append(Part(lambda p, s=side: box(p, (0.5, 0.36 * s, -0.2), (0.01, 0.09, 0.11)), glass))
        parts.append(Part(lambda p, s=side: box(p, (0.0, 0.55 * s * wide, -0.22), (0.14, 0.01, 0.11)), glass))
    return parts


def duck(color: Tensor, jitter: Jitter) -> list[Part]:
    """A rubber duck: round body, head, orange bill, wings at the sides, a tail turned up."""
    fat, black = jitter(0.08), named("black", color)
    parts = [
        Part(lambda p: ellipsoid(p, (-0.05, 0, -0.3), (0.6, 0.43 * fat, 0.36)), color),
        Part(lambda p: ellipsoid(p, (0.3, 0, 0.27), (0.3, 0.29, 0.29)), color),
        Part(lambda p: capsule(p, (-0.48, 0, -0.2), (-0.74, 0, 0.06), 0.11), color),
        Part(lambda p: ellipsoid(p, (0.63, 0, 0.2), (0.18, 0.15, 0.065)), named("orange", color)),
    ]
    for side in (-1, 1):
        parts.append(Part(lambda p, s=side: sphere(p, (0.5, 0.15 * s, 0.37), 0.06), black))
        wing = shade(color, 0.82)
        parts.append(Part(lambda p, s=side: ellipsoid(p, (-0.1, 0.4 * s * fat, -0.25), (0.34, 0.1, 0.2)), wing))
    return parts


OBJECTS: dict[str, Callable[[Tensor, Jitter], list[Part]]] = {
    "snowman": snowman,
    "mushroom": mushroom,
    "chair": chair,
    "table": table,
    "bear": bear,
    "rocket": rocket,
    "cactus": cactus,
    "donut": donut,
    "house": house,
    "duck": duck,
}
