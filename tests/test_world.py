"""The objects are what they claim: inside the unit ball, on their bottom, another from each side, and of their colour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamerxl.cameras import cameras_at
from dreamerxl.miniature.accessories import ACCESSORIES, TABLE_TOP
from dreamerxl.miniature.objects import OBJECTS, Draw, Figure
from dreamerxl.miniature.render import render
from dreamerxl.miniature.solids import FINISH, FIRST, MATTE, PALETTE, WOODEN, Coat, table
from dreamerxl.miniature.tracer import nearest_solid
from dreamerxl.miniature.world import COATS, COLORS, MATERIALS, PATTERNS, PLACES, Thing, build_scene, draw_thing

SIDES = ((0, 15), (90, 15), (180, 15), (270, 15))  # front, left, back, right


def figure(name: str, seed: int = 0) -> Figure:
    return OBJECTS[name].build(Draw(np.random.default_rng(seed)))


def surface(rows: np.ndarray, count: int = 1500) -> np.ndarray:
    """Points [M, 3] where rays from outside towards the origin first meet the solids, from directions all around."""
    i = np.arange(count) + 0.5
    polar, around = np.arccos(1 - 2 * i / count), math.pi * (1 + math.sqrt(5)) * i
    directions = np.stack([np.cos(around) * np.sin(polar), np.sin(around) * np.sin(polar), np.cos(polar)], 1)
    points = []
    for d in directions.astype(np.float32):
        r = np.float32(1.45)
        for _ in range(150):
            away, _ = nearest_solid(rows, rows.shape[1], 0, r * d[0], r * d[1], r * d[2])
            if away < 1e-3:
                points.append(r * d)
                break
            r -= np.float32(0.9) * away
            if r < 0:
                break
    return np.array(points)


def seen(thing: Thing, sides: tuple = SIDES, seed: int = 3, size: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures [V, 3, size, size] on white and what the thing covers [V, size, size]."""
    angles = torch.tensor(sides, dtype=torch.float32)
    count = len(sides)
    cameras = cameras_at(angles[:, 0], angles[:, 1], torch.full((count,), 4.0), torch.full((count,), 34.4), size, size)
    scenes = [build_scene(thing, np.random.default_rng(seed))] * count
    images, depths = render(scenes, cameras, torch.ones(count, 3), supersample=1)
    return images, depths[:, 0] > 0


@pytest.mark.parametrize("name", list(OBJECTS))
def test_objects_fill_the_unit_ball_and_stand_on_their_bottom(name: str) -> None:
    for seed in range(3):
        made = figure(name, seed)
        points = surface(table(made.solids, Coat((1, 0, 0)))[None])
        radius = np.linalg.norm(points, axis=1)
        assert 0.75 < radius.max() < 1.005
        assert points[:, 2].min() == pytest.approx(made.bottom, abs=0.03)


@pytest.mark.parametrize("name", list(OBJECTS))
def test_no_two_sides_look_alike(name: str) -> None:
    images, covered = seen(Thing(name))
    for i, j in ((0, 1), (0, 2), (1, 2), (1, 3)):
        for other in (images[j], images[j].flip(-1)):
            differs = ((images[i] - other).abs().sum(0) > 0.1).sum() / covered[i].sum()
            assert differs > 0.01, (i, j)


@pytest.mark.parametrize("name", list(OBJECTS))
def test_the_coat_is_seen_from_every_side(name: str) -> None:
    (red, covered), (blue, _) = seen(Thing(name, "red")), seen(Thing(name, "blue"))
    shares = ((red - blue).abs().sum(1) > 0.1).flatten(1).sum(1) / covered.flatten(1).sum(1)
    assert shares.min() > 0.25
    coated = ((red - blue).abs().sum(1) > 0.1)[:, None].expand_as(red)
    reds, blues = ((images * coated).sum((0, 2, 3)) for images in (red, blue))
    assert reds.argmax() == 0 and blues.argmax() == 2


def test_the_catalogue_is_as_large_as_it_says_and_every_name_is_someone_s_only_name() -> None:
    nouns = [noun for kind in OBJECTS.values() for noun in kind.nouns]
    assert len(OBJECTS) == 38 and len(nouns) == len(set(nouns))
    assert all(kind.natural in COATS for kind in OBJECTS.values())
    assert len(COLORS) == 12 and set(COLORS) <= set(PALETTE) and all(color in PALETTE for color, _ in MATERIALS.values())


def test_a_scene_is_drawn_again_from_its_seed() -> None:
    thing = Thing("dog", "green", "spotted", wears="scarf")
    first, again, other = (build_scene(thing, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.table, again.table) and (first.shadow, first.ground) == (again.shadow, again.ground)
    assert not np.array_equal(first.table, other.table)


def test_things_are_drawn_in_all_their_guises_and_only_where_they_make_sense() -> None:
    generator = np.random.default_rng(0)
    things = [draw_thing(name, generator) for name in OBJECTS for _ in range(60)]
    assert {thing.coat for thing in things} == {"", *COATS}
    assert {thing.pattern for thing in things} == set(PATTERNS) - {"plain"} | {""}
    assert {thing.wears for thing in things} == {"", *ACCESSORIES} and {thing.on_table for thing in things} == {False, True}
    for thing in things:
        assert not thing.wears or thing.wears in PLACES[thing.object]
        assert not thing.wears_color or ACCESSORIES[thing.wears].takes_color
        assert not thing.pattern or thing.seen_coat not in MATERIALS  # wood and gold are finishes of their own
    wanted = draw_thing("duck", generator, lambda thing: thing.coat == "pink" and thing.on_table)
    assert wanted.coat == "pink" and wanted.on_table


def test_what_is_worn_sits_on_its_head_or_neck_and_takes_its_colour() -> None:
    for name, places in PLACES.items():
        made = figure(name)
        assert set(places) == {a for a, kind in ACCESSORIES.items() if getattr(made, kind.place) is not None}
        for wears in places:
            accessory = ACCESSORIES[wears]
            place = made.head if accessory.place == "head" else made.neck
            assert place is not None
            worn = surface(table(accessory.build(place, (0.1, 0.7, 0.3)), Coat((1, 0, 0)))[None])
            if accessory.place == "head":  # on top of it, over its middle
                assert worn[:, 2].max() > place.center[2] + place.radius
                assert np.abs(worn[:, :2].mean(0) - place.center[:2]).max() < place.radius
            assert worn[:, 2].min() > made.bottom - 0.1
            bare = len(build_scene(Thing(name), np.random.default_rng(0)).table)
            dressed = build_scene(Thing(name, wears=wears, wears_color="turquoise"), np.random.default_rng(0)).table
            assert len(dressed) == bare + len(accessory.build(place, "red"))
            takes = np.isclose(dressed[bare:, FIRST : FIRST + 3], PALETTE["turquoise"], atol=1e-6).all(1).any()
            assert takes == accessory.takes_color
    with pytest.raises(ValueError, match="a house has no place for a hat"):
        build_scene(Thing("house", wears="hat"), np.random.default_rng(0))


@pytest.mark.parametrize("name", list(OBJECTS))
def test_a_thing_on_a_table_stands_on_its_top_and_within_view(name: str) -> None:
    scene = build_scene(Thing(name, on_table=True), np.random.default_rng(0))
    alone = build_scene(Thing(name), np.random.default_rng(0))
    count = len(alone.table)
    points = surface(scene.table[None, :count])
    size = scene.ground / -0.92  # the whole is drawn at this size
    assert points[:, 2].min() == pytest.approx(size * TABLE_TOP, abs=0.03)
    assert np.linalg.norm(surface(scene.table[None]), axis=1).max() < 1.35


def test_materials_take_the_place_of_a_colour_and_patterns_go_over_it() -> None:
    def painted(thing: Thing) -> np.ndarray:
        plain, other = (build_scene(t, np.random.default_rng(2)).table for t in (Thing("duck", "red"), thing))
        return other[(plain[:, FIRST : FIRST + 3] != other[:, FIRST : FIRST + 3]).any(1)]

    assert set(painted(Thing("duck", "wooden"))[:, FINISH]) == {WOODEN}
    assert set(painted(Thing("duck", "blue"))[:, FINISH]) == {MATTE}
    for pattern, finish in PATTERNS.items():
        assert set(painted(Thing("duck", "blue", pattern))[:, FINISH]) == {finish}
    tint = painted(Thing("duck", "blue"))[0, FIRST : FIRST + 3] - PALETTE["blue"]
    assert np.abs(tint).max() <= 0.0251
