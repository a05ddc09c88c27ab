"""What a run leaves on disk."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest
from fake_training import ball, fake_make_trainer

import dreamerxl
from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, RunFolderError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import freeze
from dreamerxl.runs.curves import Curves
from dreamerxl.runs.folder import RunFolder
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import ID_PATTERN, new_id, read_run
from dreamerxl.runs.snapshot import METRICS
from dreamerxl.training import checkpoint

SETTINGS = Settings(prompt="a bagel — 面包", iterations=12, seed=7, checkpoint_every=5)


@pytest.fixture
def done(tmp_path):
    manager = RunManager(tmp_path / "runs", fake_make_trainer())
    run = manager.submit(SETTINGS, owner="a secret cookie")
    assert run.wait(20)
    assert manager.close(20)
    return run


def test_the_record_is_enough_to_repeat_the_run(done):
    text = (done.folder.path / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert Settings.from_dict(record["settings"]) == SETTINGS
    assert (record["id"], record["status"], record["seed"], record["prompt"]) == (done.id, "done", 7, SETTINGS.prompt)
    assert (record["iteration"], record["model"], record["device"]) == (12, "a fake model", "cpu")
    assert record["versions"]["dreamerxl"] == dreamerxl.__version__
    assert record["versions"]["python"] == sys.version.split()[0]
    assert {"torch", "diffusers", "transformers", "gsplat", "numpy"} <= set(record["versions"])
    assert record["machine"]["threads"] >= 1
    assert set(record["timings_s"]) == {"loading", "iterations", "snapshots", "paused"}
    assert [event["kind"] for event in record["events"]] == ["queued", "loading", "started", "done"]
    assert "cookie" not in text


def test_metrics_hold_every_iteration(done):
    lines = [json.loads(line) for line in (done.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    assert all(len(line["sides"]) == 2 and line["seconds"] >= 0 for line in lines)
    assert set(lines[0]["sides"][0]) == set(METRICS)


def test_scenes_and_checkpoints_are_there_and_nothing_half_written(done):
    assert sorted(path.name for path in done.folder.scenes.iterdir()) == ["0-ism.ply", "1-tsm.ply"]
    assert sorted(path.name for path in done.folder.checkpoints.iterdir()) == ["0000010.safetensors", "0000012.safetensors"]
    assert checkpoint.load(checkpoint.latest(done.folder.checkpoints)).values["iteration"] == 12
    assert not list(done.folder.path.rglob(".*"))


def test_a_run_is_read_back_as_it_was(done):
    found = read_run(done.folder.path)
    assert found.view.settings == SETTINGS
    assert found.view.history == done.view.history
    assert found.view.events == done.view.events
    assert (found.view.status, found.view.created) == ("done", pytest.approx(done.view.created, abs=1e-3))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"settings": {}}', '{"settings": {"promt": 1}}', "\x00\xff", "[" * 100_000], ids=range(8)
)
def test_a_folder_that_holds_no_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(DreamerError):
        read_run(tmp_path)


def test_a_record_cannot_name_a_path(done):
    record = done.folder.read_record()
    done.folder.write_record(record | {"id": "../../outside"})
    with pytest.raises(RunFolderError, match="names no run"):
        read_run(done.folder.path)


def test_metrics_are_read_up_to_a_torn_line(done):
    with open(done.folder.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"iteration": 13, "si')
    assert len(read_run(done.folder.path).view.history.iterations) == 12


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    target = tmp_path / "part" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["file.txt"]


def test_readers_never_see_half_a_record(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_record({"n": 0})
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(len(folder.read_record()["filler"]) if "filler" in folder.read_record() else 0)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(100):
        folder.write_record({"n": n, "filler": "x" * 20_000})
    stop.set()
    reader.join(20)
    assert set(seen) <= {0, 20_000}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot be written: Permission denied"):
        RunFolder.create(tmp_path / "run")


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run")


def test_ids_sort_by_time_and_are_safe_names():
    ids = [new_id(seconds) for seconds in (1.0, 1e9, 1.8e9)]
    assert ids == sorted(ids)
    assert all(ID_PATTERN.fullmatch(name) for name in ids)
    assert len({new_id(1e9) for _ in range(50)}) == 50


@pytest.mark.parametrize("iterations", [1, 399, 400, 401, 5000])
def test_curves_stay_short_and_keep_the_mean(iterations):
    rng = np.random.default_rng(0)
    values = rng.random(iterations)
    curves = Curves()
    for index, value in enumerate(values):
        curves.add(index + 1, [{"a": value}, {"a": -value}])
    history = curves.history()
    assert len(history.iterations) == len(history.sides[0]["a"]) <= 400
    assert len(history.iterations) >= min(iterations, 200) - 1
    covered = history.iterations[-1]
    assert iterations - covered < iterations / 190 + 1
    assert np.mean(history.sides[0]["a"]) == pytest.approx(values[:covered].mean())
    assert np.allclose(history.sides[1]["a"], -np.array(history.sides[0]["a"]))
    assert (np.diff(history.iterations) > 0).all()


def test_scenes_hold_the_gaussians_of_the_last_iteration(done):
    header, _, body = (done.folder.scenes / "0-ism.ply").read_bytes().partition(b"end_header\n")
    columns = header.count(b"property float")
    rows = np.frombuffer(body, "<f4").reshape(-1, columns)
    assert np.allclose(rows[:, :3], freeze(ball()).means * 0.999**12, atol=1e-5)
