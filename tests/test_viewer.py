"""The view's server: it shows the newest stage to everyone, in place, and goes on after a failure."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_training import CAMERAS, ball

from dreamerxl.cameras import frustums
from dreamerxl.config import Settings
from dreamerxl.gaussians.scene import FrozenSplats, freeze
from dreamerxl.runs.run import RunView
from dreamerxl.runs.snapshot import SideSnapshot, Snapshot
from dreamerxl.web.view_scene import COUNT_STEP, ready_ball
from dreamerxl.web.viewer import Stage, Viewer, stage_of

FRUSTUMS = frustums(CAMERAS).numpy()


def scene(count: int, seed: int = 0) -> FrozenSplats:
    return freeze(ball(count, seed))


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    made = Viewer()
    yield made
    made.close()


def test_stages_are_shown_in_place(viewer: Viewer):
    splats = viewer._splats
    np.testing.assert_array_equal(splats.centers, ready_ball(2)[0])
    scenes = scene(40), scene(60, seed=1)
    assert viewer.show(Stage(("a", "b"), scenes, FRUSTUMS, key=1))
    np.testing.assert_array_equal(splats.centers[COUNT_STEP : COUNT_STEP + 60], scenes[1].means)
    assert len(viewer._cameras.points) == 8 * len(FRUSTUMS)
    assert [label.text for label in viewer._labels] == ["a\n40 Gaussians", "b\n60 Gaussians"]
    assert not viewer.show(Stage(("a", "b"), scenes[::-1], FRUSTUMS, key=1))  # the same key: nothing new
    np.testing.assert_array_equal(splats.centers[COUNT_STEP : COUNT_STEP + 60], scenes[1].means)


def test_the_number_of_sides_may_change(viewer: Viewer):
    viewer.show(Stage(("one",), (scene(40),), key="b"))
    assert len(viewer._splats.centers) == COUNT_STEP
    assert [label.text for label in viewer._labels] == ["one\n40 Gaussians"]
    viewer.show(Stage(("one", "two", "three"), key="c"))
    assert len(viewer._splats.centers) == len(ready_ball(3)[0])
    assert [label.text for label in viewer._labels] == ["one", "two", "three"]


def test_a_changed_name_is_shown(viewer: Viewer):
    scenes = scene(40), scene(60)
    viewer.show(Stage(("ISM", "TSM γ 0.3"), scenes, key=1))
    viewer.show(Stage(("ISM", "TSM γ 0.6"), scenes, key=1))
    assert viewer._labels[1].text == "TSM γ 0.6\n60 Gaussians"


def test_the_first_scene_does_not_wait_for_its_turn_after_the_points(viewer: Viewer):
    assert not viewer.show(Stage(("a", "b"), key="loading"))  # the same points in a ball: nothing to wait for
    assert viewer._labels[0].text == "a"
    assert viewer.show(Stage(("a", "b"), (scene(40), scene(60)), key=("run", 1)))
    assert viewer.show(Stage(("a", "b"), key="the next run"))
    assert viewer.show(Stage(("a",), key="one side"))


def test_a_view_follows_what_it_is_given_and_survives_a_failure(viewer: Viewer, caplog: pytest.LogCaptureFixture):
    answers = iter([Stage(("a",), (scene(40),), key=1), None, Stage(("a",), (scene(30, seed=4),), key=2)])
    last = Stage(key="end")
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
    assert stage_of(view) == Stage(("ISM", "TSM γ 0.3"), key=view.id)
    picture = np.zeros((4, 4, 3), np.uint8)
    sides = tuple(SideSnapshot(name, scene(20), *[picture] * 5, metrics={}) for name in ("ISM", "TSM"))
    shown = stage_of(dataclasses.replace(view, snapshot=Snapshot(view.id, 7, 10, 1.0, 3.0, sides, FRUSTUMS)))
    assert shown.key == (view.id, 7)
    assert shown.captions == ("ISM\n20 Gaussians", "TSM γ 0.3\n20 Gaussians")
    assert shown.scenes[0] is sides[0].splats and shown.frustums is FRUSTUMS
