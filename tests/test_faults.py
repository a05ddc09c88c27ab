"""Faults that are really there: a full disk, a folder that vanishes or cannot be written, no memory, numbers that are not."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_training import FakeTrainer, decode, fake_make_trainer

from dreamerxl.config import Settings, load_preset
from dreamerxl.errors import NumericalError
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.particles import Particles
from dreamerxl.runs import worker
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import Run
from dreamerxl.runs.worker import Pace, Prepared
from dreamerxl.training import checkpoint
from dreamerxl.training.memory import is_out_of_memory, what_needs_less
from dreamerxl.training.trainer import Trainer, slower

resource = pytest.importorskip("resource", reason="limits on files are POSIX's")

SETTINGS = Settings(prompt="a ball", iterations=60, checkpoint_every=10)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[RunManager]:
    made = RunManager(tmp_path / "runs", fake_make_trainer(0.01), pace=Pace(snapshot_seconds=0.02))
    yield made
    assert made.close(20)


@contextlib.contextmanager
def full_disk(run: Run) -> Iterator[None]:
    """No file may grow: the kernel refuses every write at once, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def vanished(run: Run) -> Iterator[None]:
    run.folder.path.rename(run.folder.path.with_name("elsewhere"))
    yield


@contextlib.contextmanager
def not_a_folder(run: Run) -> Iterator[None]:
    """A file stands where the folder was."""
    moved = run.folder.path.with_name("moved")
    run.folder.path.rename(moved)
    run.folder.path.write_text("")
    yield
    run.folder.path.unlink()
    moved.rename(run.folder.path)


@contextlib.contextmanager
def read_only(run: Run) -> Iterator[None]:
    """The folder and its parts, for a user whom permissions hold."""
    folders = [run.folder.path, *(path for path in run.folder.path.iterdir() if path.is_dir())]
    files = [path for path in run.folder.path.rglob("*") if path.is_file()]
    for path in (*folders, *files):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in (*folders, *files):
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("fault", [full_disk, vanished, not_a_folder, read_only])
def test_what_the_disk_refuses_pauses_the_run_until_it_is_mended(fault: Any, manager: RunManager, tmp_path: Path) -> None:
    for parent in tmp_path.parents:  # so that another user can reach the folder at all
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    run = manager.submit(SETTINGS)
    until(lambda: run.view.iteration >= 15)
    with fault(run):
        until(lambda: run.view.status == "paused")
        view = run.view
        assert "cannot be written" in view.reason and "press Resume" in view.reason
        manager.resume(run.id)  # nothing is mended yet, or (where the folder vanished) it can be made again
        if fault is not vanished:
            until(lambda: len(run.view.events) >= len(view.events) + 2)
            assert run.view.status == "paused" and run.view.iteration == view.iteration
    if fault is not vanished:
        manager.resume(run.id)
    assert run.wait(20)
    assert (run.view.status, run.view.iteration, run.view.reason) == ("done", 60, "")
    kept = [json.loads(line)["iteration"] for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert kept == list(range(kept[0], 61)), "no line is missing, doubled or torn"
    assert kept[0] == 1 or fault is vanished
    undisturbed = manager.submit(SETTINGS)
    assert undisturbed.wait(20)
    for name in ("0-ism.ply", "1-tsm.ply"):
        np.testing.assert_array_equal(
            read_ply(run.folder.scenes / name).means, read_ply(undisturbed.folder.scenes / name).means, strict=True
        )


def test_a_run_can_be_stopped_while_the_disk_refuses(manager: RunManager) -> None:
    run = manager.submit(SETTINGS)
    until(lambda: run.view.iteration >= 15)
    with full_disk(run):
        until(lambda: run.view.status == "paused")
        manager.stop(run.id)
        assert run.wait(20)
    assert run.view.status == "stopped" and "could not be written" in run.view.reason
    assert manager.submit(SETTINGS).wait(20)


@pytest.mark.parametrize("part", ["take_sides", "take_marks"])
def test_what_is_beside_the_training_may_fail_and_the_training_goes_on(
    part: str, manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("the sky fell")

    monkeypatch.setattr(worker, part, fail)
    run = manager.submit(SETTINGS)
    assert run.wait(20)
    assert run.view.status == "done" and (run.folder.scenes / "0-ism.ply").is_file()
    told = [notice for notice in run.view.notices if "the sky fell" in notice]
    assert len(told) == 1 and "the training goes on" in told[0]


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_what_to_lower_and_the_next_run_works(error: Exception, tmp_path: Path) -> None:
    made: list[FakeTrainer] = []

    def make(settings: Settings, say: Any) -> Prepared:
        made.append(FakeTrainer(settings, fail_at=3 if not made else None, error=error))
        return Prepared(made[-1], decode)

    manager = RunManager(tmp_path, make)
    first, second = manager.submit(SETTINGS), manager.submit(SETTINGS)
    assert first.wait(20) and second.wait(20)
    assert first.view.reason.startswith("The memory was not enough. Lower ") and second.view.status == "done"
    assert manager.close(20)


def test_the_setting_that_takes_the_most_memory_is_the_one_to_lower() -> None:
    pictures = Settings(prompt="x").override({"densification.max_count": 100_000})
    assert "Lower views.batch from 4 to 2" in what_needs_less(pictures)
    assert "Lower views.resolution from 1,024 to 512" in what_needs_less(pictures.override({"views.batch": 1}))
    many = pictures.override({"densification.max_count": 10_000_000})
    assert "Lower densification.max_count from 10,000,000 to 5,000,000" in what_needs_less(many)
    assert "about 14.0 GB less" in what_needs_less(many)
    start = pictures.override({"densification.enabled": False, "initialization.count": 5_000_000, "views.batch": 1})
    assert "Lower initialization.count from 5,000,000 to 2,500,000" in what_needs_less(start)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
def test_a_card_that_is_really_full_is_told_and_the_next_run_works(tmp_path: Path) -> None:
    manager = RunManager(tmp_path)
    settings = load_preset("duck").override({"iterations": 20})
    hog = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device="cuda")  # the model has room, and no more
    first = manager.submit(settings.override({"initialization.count": 2_000_000, "densification.enabled": False}))
    assert first.wait(300)
    assert first.view.status == "failed" and "Lower initialization.count" in first.view.reason
    del hog
    torch.cuda.empty_cache()
    second = manager.submit(settings)
    assert second.wait(300) and second.view.status == "done"
    assert manager.close(20)


# ------------------------------------------------------------------------------------------------------- not finite


def embedded_settings(**changes: Any) -> Settings:
    small = {"iterations": 14, "checkpoint_every": 5, "views.batch": 1, "views.resolution": 32, "initialization.count": 60}
    return Settings(prompt="a red duck").override(small | {"densification.enabled": False} | changes)


class Spoiled(Trainer):
    """The real trainer with a model that gives one number that is not finite, at some steps: ``at`` counts steps ever taken."""

    def __init__(self, *arguments: Any, where: str, at: set[int], value: float) -> None:
        super().__init__(*arguments)
        self.where, self.at, self.value, self.taken = where, at, value, 0
        self.finite: list[bool] = []

    def step(self) -> Any:
        self.taken += 1
        encode, predict = self.guidance.encode, self.guidance.predict

        def spoil(x: torch.Tensor) -> torch.Tensor:
            if self.taken not in self.at:
                return x
            spoiled = x.clone()
            spoiled[(0,) * (x.dim() - 1)][3] = self.value
            return spoiled

        def encode_spoiled(images: torch.Tensor) -> torch.Tensor:
            if self.where == "gradient" and self.taken in self.at:
                images.register_hook(spoil)
            latents = encode(images)
            return spoil(latents) if self.where == "latents" else latents

        if self.where == "parameters" and self.taken in self.at:
            with torch.no_grad():
                self.sides[0].params["means"][1, 2] = self.value
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.guidance, "encode", encode_spoiled)
            if self.where == "prediction":
                patch.setattr(self.guidance, "predict", lambda *rows: spoil(predict(*rows)))
            return super().step()

    def state_dict(self) -> Any:
        state = super().state_dict()
        self.finite.append(all(bool(x.isfinite().all()) for x in state.tensors.values() if x.is_floating_point()))
        return state


STAGES = {
    "latents": "latents of the render",
    "prediction": "noise prediction",
    "gradient": "image gradient",
    "parameters": "means after the update",
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", list(STAGES))
def test_what_is_not_finite_is_noticed_at_once_never_kept_and_undone_once(
    where: str, value: float, guidance: Guidance, tmp_path: Path
) -> None:
    made: list[Spoiled] = []

    def make(settings: Settings, say: Any) -> Prepared:
        made.append(Spoiled(settings, guidance, where=where, at={8} if len(made) == 0 else {8, 12}, value=value))
        return Prepared(made[-1], guidance.decode)

    manager = RunManager(tmp_path, make)
    once, twice = (manager.submit(embedded_settings()) for _ in range(2))
    assert once.wait(60) and twice.wait(60) and manager.close(20)

    assert (once.view.status, once.view.iteration) == ("done", 14), once.view.reason
    event = next(event for event in once.view.events if event.kind == "recovered")
    assert (event.iteration, event.details["iteration"]) == (7, 5), (
        "the seventh iteration was the last good one, the fifth is kept"
    )
    assert event.text.startswith("Side ") and STAGES[where] in event.text
    rates = [view.settings.optimization.lr_means for view in (once.view, twice.view)]
    assert rates == [embedded_settings().optimization.lr_means / 2] * 2
    lines = [json.loads(line)["iteration"] for line in (once.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 15)) and once.view.history.iterations == tuple(lines)
    assert all(made[0].finite) and all(made[1].finite), "what was not finite was never in a checkpoint"
    scenes = [read_ply(path) for path in sorted(once.folder.scenes.glob("*.ply"))]
    assert len(scenes) == 2 and all(np.isfinite(scene.means).all() for scene in scenes)

    assert twice.view.status == "failed" and "is not finite at iteration" in twice.view.reason
    assert STAGES[where] in twice.view.reason
    kept = checkpoint.load(checkpoint.latest(twice.folder.checkpoints))  # type: ignore[arg-type]
    assert kept.values["iteration"] == 5 and all(x.isfinite().all() for x in kept.tensors.values())


@pytest.mark.parametrize(("at", "back_to"), [(3, 0), (8, 5)])
def test_a_model_of_the_particles_that_is_not_finite_is_undone_too(
    at: int, back_to: int, guidance: Guidance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, taken = Particles.learn, []

    def spoiled(self: Particles, *arguments: Any) -> float:
        loss = learn(self, *arguments)
        taken.append(loss)
        if len(taken) == at:
            with torch.no_grad():
                next(iter(self.weights.values())).view(-1)[5] = float("nan")
        return loss

    monkeypatch.setattr(Particles, "learn", spoiled)
    settings = embedded_settings(variants=[{"method": "vsd"}])
    manager = RunManager(tmp_path, lambda settings, say: Prepared(Trainer(settings, guidance), guidance.decode))
    run = manager.submit(settings)
    assert run.wait(60) and manager.close(20) and run.view.status == "done", run.view.reason
    event = next(event for event in run.view.events if event.kind == "recovered")
    assert (event.iteration, event.details["iteration"]) == (at - 1, back_to)
    assert "model of the particles is not finite" in event.text
    if back_to == 0:  # all that counts was done with half the rates
        whole = Trainer(slower(settings, 0.5), guidance)
        for _ in range(14):
            whole.step()
        kept = checkpoint.load(checkpoint.latest(run.folder.checkpoints))  # type: ignore[arg-type]
        for name, value in whole.state_dict().tensors.items():
            assert torch.equal(value, kept.tensors[name]), name


def test_without_checkpoints_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    error = NumericalError("Side 1 (ISM): the render is not finite at iteration 3.")
    manager = RunManager(tmp_path, fake_make_trainer(fail_at=3, error=error))
    run = manager.submit(SETTINGS.override({"checkpoint_every": 0}))
    assert run.wait(20) and (run.view.status, run.view.reason) == ("failed", str(error))
    assert manager.close(20)
