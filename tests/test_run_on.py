"""Runs that go on, are watched more or less, leave moments and marks, and are deleted."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fake_training import FakeTrainer, ball, decode, fake_make_trainer

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.gaussians.scene import freeze
from dreamerxl.runs import worker
from dreamerxl.runs.growth import moments, scenes_at
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.marks import take_marks
from dreamerxl.runs.metadata import read_about, settings_of
from dreamerxl.runs.run import VIEW_SHARE, read_run
from dreamerxl.runs.worker import Pace, Prepared, snapshot_interval

SETTINGS = Settings(prompt="a ball", iterations=8, checkpoint_every=3)


@pytest.fixture
def manager(tmp_path):
    made = RunManager(tmp_path / "runs", fake_make_trainer())
    yield made
    made.close(20)


def finished(manager, settings=SETTINGS, **options):
    run = manager.submit(settings, **options)
    assert run.wait(30)
    return run


def test_a_run_goes_on_where_it_stood(manager):
    first = finished(manager)
    longer = dataclasses.replace(first.view.settings, iterations=12).override({"variants.gamma": 0.7})
    second = finished(manager, longer, start=first.view)
    assert (second.view.status, second.view.iteration, second.view.settings) == ("done", 12, longer)
    lines = [json.loads(line) for line in (second.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    whole = finished(manager, dataclasses.replace(SETTINGS, iterations=12))
    for name in ("0-ism.ply", "1-tsm.ply"):  # the fake trainer's steps do not ask for gamma
        np.testing.assert_array_equal(read_ply(second.folder.scenes / name).means, read_ply(whole.folder.scenes / name).means)
    assert moments(second.folder.growth, 2) == tuple(range(1, 13))
    assert f"goes on from {first.id}" in second.view.events[0].text
    assert len(second.view.history.iterations) == 12
    assert second.view.marks.iterations == (1, 3, 5, 7, 8, 9, 11, 12)


def test_a_run_without_a_checkpoint_cannot_go_on(manager):
    first = finished(manager)
    for path in first.folder.checkpoints.iterdir():
        path.unlink()
    second = finished(manager, start=first.view)
    assert (second.view.status, "no checkpoint" in second.view.reason) == ("failed", True)


def test_every_moment_is_kept_every_other_one_with_marks_and_found_again_on_disk(manager):
    run = finished(manager)
    assert moments(run.folder.growth, 2) == tuple(range(1, 9))
    last = scenes_at(run.folder.growth, 8, 2)
    np.testing.assert_allclose(last[1].means, read_ply(run.folder.scenes / "1-tsm.ply").means, atol=1e-5)
    marks = run.view.marks
    assert marks.iterations == (1, 3, 5, 7, 8)
    assert set(marks.sides[0]) == {"neighbours"} and all(0 < value < 1 for value in marks.sides[0]["neighbours"])
    assert read_run(run.folder.path).view.marks == marks


def test_a_judge_is_asked_for_every_mark(tmp_path):
    asked = []

    def judge(views):
        asked.append(views.shape)
        return len(asked) / 100

    manager = RunManager(tmp_path, lambda settings, say: Prepared(FakeTrainer(settings), decode, "m", "cpu", (), judge))
    run = finished(manager, dataclasses.replace(SETTINGS, iterations=2))
    manager.close(20)
    assert run.view.marks.sides[0]["judge"] == (0.01, 0.03) and run.view.marks.sides[1]["judge"] == (0.02, 0.04)
    assert set(asked) == {(3, 128, 128, 3)}


def test_views_of_a_body_of_revolution_differ_less_than_those_of_a_lopsided_one():
    even = freeze(ball(2000))
    rings = dataclasses.replace(even, rgbs=np.repeat(np.clip(0.5 + even.means[:, 2:], 0, 1), 3, 1).astype(np.float32))
    sectors = (np.arctan2(even.means[:, 1], even.means[:, 0]) // 0.4).astype(int) % 2
    checked = dataclasses.replace(even, rgbs=np.repeat(sectors[:, None], 3, 1).astype(np.float32))
    marks = take_marks([rings, checked])
    assert marks[0]["neighbours"] < 0.7 * marks[1]["neighbours"]


def test_a_full_disk_ends_the_growth_and_not_the_run(manager, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(worker.Growth, "keep", fail)
    run = finished(manager)
    assert run.view.status == "done"
    assert "no space left" in (run.folder.path / "log.jsonl").read_text()


def test_scenes_say_where_they_come_from(manager):
    run = finished(manager, SETTINGS.override({"variants.1.gamma": 0.45}))
    assert settings_of(read_about(run.folder.scenes / "1-tsm.ply")) == run.view.settings


def test_the_share_of_the_view_stretches_the_wait_between_snapshots():
    usual = snapshot_interval(Pace(), [0.1, 0.1])
    assert snapshot_interval(Pace(view_share=VIEW_SHARE / 4), [0.1, 0.1]) == pytest.approx(4 * usual)
    assert snapshot_interval(Pace(view_share=VIEW_SHARE * 2), [0.1, 0.1]) == pytest.approx(usual / 2)


def test_the_share_is_taken_from_a_running_run(tmp_path):
    manager = RunManager(tmp_path, fake_make_trainer(seconds=0.01))
    run = manager.submit(dataclasses.replace(SETTINGS, iterations=100_000))
    with pytest.raises(SettingsError, match=r"0.9; 0.01 to 0.5"):
        manager.watch(run.id, 0.9)
    manager.watch(run.id, 0.3)
    manager.pause(run.id)
    while run.view.status != "paused":
        run.wait(0.01)
    assert run.view.view_share == 0.3
    with pytest.raises(DreamerError, match="stop it first"):
        manager.delete(run.id)
    manager.stop(run.id)
    assert run.wait(20)
    manager.close(20)


def test_a_deleted_run_is_gone_from_memory_and_disk(manager):
    run, other = finished(manager), finished(manager)
    manager.delete(run.id)
    assert not run.folder.path.exists()
    assert [view.id for view in manager.runs()] == [other.id]
    with pytest.raises(DreamerError, match="no run"):
        manager.get(run.id)


def test_the_owner_is_known_again_after_a_restart_but_not_given_away(manager):
    run = finished(manager, owner="a secret")
    again = read_run(run.folder.path).view
    assert again.owner is None and "a secret" not in (run.folder.path / "run.json").read_text()
    assert again.belongs_to("a secret") and run.view.belongs_to("a secret")
    assert not any(again.belongs_to(other) for other in ("another", "", None, again.owner_key))
    assert not finished(manager).view.belongs_to("")
