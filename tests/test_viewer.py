"""The 3D view: the sides stay side by side and show the same aspect from everywhere; what is sent is always finite."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import viser.transforms as tf
from fake_training import ball
from hypothesis import given
from hypothesis import strategies as st

from dreamerxl.config import Settings
from dreamerxl.gaussians.scene import FrozenSplats, covariances, freeze
from dreamerxl.runs.run import RunView
from dreamerxl.runs.snapshot import SideSnapshot, Snapshot
from dreamerxl.web.viewer import (
    COUNT_STEP,
    FOV_DEG,
    MOST_SPLATS,
    SPACING,
    Stage,
    Viewer,
    first_distance,
    first_position,
    pack,
    places,
    ready_ball,
    rotation_between,
    stage_of,
)

vectors = st.tuples(*[st.floats(-5, 5, allow_subnormal=False)] * 3).map(np.array)


def camera_axes(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rows right, down, forward of a camera with z up, from cross products."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


@pytest.mark.parametrize("azimuth", [0, 70, 90, 180, 300])
@pytest.mark.parametrize("elevation", [-30, 0, 60])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_sides_stand_in_a_row_on_screen_and_show_the_same_aspect(azimuth: int, elevation: int, count: int):
    a, e = math.radians(azimuth), math.radians(elevation)
    camera = 6 * np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    axes = camera_axes(camera, np.zeros(3))
    rows = places(camera, axes[0], count)
    seen = np.array([axes @ (position - camera) for position, _ in rows])
    np.testing.assert_allclose(np.diff(seen[:, 0]), SPACING)  # from left to right
    np.testing.assert_allclose(seen[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(seen[:, 2], 6)  # none in front of another
    for position, wxyz in rows:
        towards = tf.SO3(wxyz).inverse() @ (camera - position)
        np.testing.assert_allclose(towards / np.linalg.norm(towards), camera / 6, atol=1e-9)


@given(vectors, vectors)
def test_a_rotation_turns_one_direction_into_the_other(a: np.ndarray, b: np.ndarray):
    wxyz = rotation_between(a, b)
    assert np.linalg.norm(wxyz) == pytest.approx(1)
    sizes = np.linalg.norm(a) * np.linalg.norm(b)
    if sizes > 1e-3 and a @ b > -0.999 * sizes:
        np.testing.assert_allclose((tf.SO3(wxyz) @ a) / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-6)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.6, 2.5])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_view_holds_every_side(aspect: float, count: int):
    position = first_position(count, aspect)
    assert np.linalg.norm(position) == pytest.approx(first_distance(count, aspect))
    axes = camera_axes(position, np.zeros(3))
    half = math.tan(math.radians(FOV_DEG) / 2)
    for place, _ in places(position, axes[0], count):
        for corner in ([0.85, 0, 0], [-0.85, 0, 0], [0, 0.85, 0], [0, -0.85, 0]):  # in the plane that faces the camera
            x, y, z = axes @ (place - position) + np.array(corner)
            assert abs(x / z) <= half * aspect and abs(y / z) <= half


def test_what_is_packed_is_finite_padded_and_right():
    scene = freeze(ball(300))
    centers, sigmas, colors, alphas = pack(scene)
    assert len(centers) == len(sigmas) == len(colors) == len(alphas) == COUNT_STEP
    np.testing.assert_array_equal(centers[:300], scene.means)
    wanted = covariances(torch.tensor(scene.quats), torch.tensor(scene.scales)).numpy()
    np.testing.assert_allclose(sigmas[:300], wanted, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(alphas[:300, 0], scene.opacities)
    assert (alphas[300:] == 0).all()


@pytest.mark.parametrize("part", ["means", "quats", "scales", "opacities", "rgbs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out(part: str, bad: float):
    scene = freeze(ball(50))
    broken = getattr(scene, part).copy()
    broken[3] = bad
    packed = pack(dataclasses.replace(scene, **{part: broken}))
    assert all(np.isfinite(array).all() for array in packed)
    assert (packed[3] > 0).sum() == 49


def test_the_most_opaque_are_kept_of_too_many():
    count = MOST_SPLATS + 5000
    opacities = np.random.default_rng(0).permutation(count).astype(np.float32) / count
    ones = np.ones((count, 3), np.float32)
    packed = pack(FrozenSplats(ones, np.tile(np.float32([1, 0, 0, 0]), (count, 1)), 0.01 * ones, opacities, 0.5 * ones))
    visible = packed[3][packed[3] > 0]
    assert len(visible) == MOST_SPLATS
    assert visible.min() == pytest.approx(5000 / count)


def test_an_empty_scene_can_be_shown():
    nothing = FrozenSplats(*(np.zeros(shape, np.float32) for shape in ((0, 3), (0, 4), (0, 3), 0, (0, 3))))
    packed = pack(nothing)
    assert len(packed[0]) == COUNT_STEP and (packed[3] == 0).all()


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    made = Viewer()
    yield made
    made.close()


def test_stages_are_shown_in_place_and_the_number_of_sides_may_change(viewer: Viewer):
    first = viewer._splats
    assert len(first) == 2
    np.testing.assert_array_equal(first[0].centers, ready_ball()[0])
    scenes = (freeze(ball(40)), freeze(ball(60, seed=1)))
    viewer.show(Stage(2, scenes, "a"))
    assert viewer._splats is first
    np.testing.assert_array_equal(first[1].centers[:60], scenes[1].means)
    viewer.show(Stage(2, scenes[::-1], "a"))  # the same key: nothing new
    np.testing.assert_array_equal(first[1].centers[:60], scenes[1].means)
    viewer.show(Stage(1, scenes[:1], "b"))
    assert len(viewer._splats) == 1
    viewer.show(Stage(3, (), "c"))
    assert len(viewer._splats) == 3


def test_the_first_scene_does_not_wait_for_its_turn_after_the_points(viewer: Viewer):
    assert not viewer.show(Stage(2, (), "loading"))  # the same points in a ball: nothing to wait for
    assert viewer.show(Stage(2, (freeze(ball(40)), freeze(ball(60))), ("run", 1)))
    assert viewer.show(Stage(2, (), "the next run"))
    assert viewer.show(Stage(1, (), "one side"))


def test_a_view_follows_what_it_is_given_and_survives_a_failure(viewer: Viewer, caplog: pytest.LogCaptureFixture):
    scenes = (freeze(ball(40)),)
    answers = iter([Stage(1, scenes, 1), None, Stage(1, (freeze(ball(30, seed=4)),), 2)])
    last = Stage(2, (), "end")
    ended = threading.Event()

    def latest() -> Stage:
        stage = next(answers, last)
        if stage is last:
            ended.set()
        return stage  # type: ignore[return-value]

    viewer.follow(latest)
    assert ended.wait(20)
    assert "could not be updated" in caplog.text


def test_a_run_becomes_a_stage():
    view = RunView("20261122-142501-a3f9c1", Path("."), Settings(prompt="x"), None, "loading", 0.0)
    assert stage_of(None) == Stage()
    assert stage_of(view) == Stage(2, (), view.id)
    picture = np.zeros((4, 4, 3), np.uint8)
    side = SideSnapshot("ISM", freeze(ball(20)), *[picture] * 5, metrics={})
    shown = stage_of(dataclasses.replace(view, snapshot=Snapshot(view.id, 7, 10, 1.0, 3.0, (side,))))
    assert (shown.sides, shown.key) == (1, (view.id, 7))
    assert shown.scenes[0] is side.splats
