"""Runs with the real trainer, on tiny diffusion models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import settings

from dreamerxl.config import Settings
from dreamerxl.guidance import models
from dreamerxl.runs import prepare
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.prepare import Preparation
from dreamerxl.runs.worker import Pace


@pytest.fixture
def asked(model_folders: dict[str, Path]) -> Settings:
    plain = settings(prompt="a red duck", model=str(model_folders["sd"]), device="cpu", iterations=3)
    return plain.override({"losses.depth_ratio": 0.5, "densification.enabled": False})


@pytest.fixture
def manager(tmp_path: Path):
    made = RunManager(tmp_path / "runs", pace=Pace(snapshot_seconds=0))
    yield made
    assert made.close(30)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded, in order."""
    names: list[str] = []

    def load(name: str, *more: Any):
        names.append(name)
        return models.load_guidance(name, *more)

    monkeypatch.setattr(prepare, "load_guidance", load)
    return names


def test_a_run_trains_shows_and_saves(manager: RunManager, asked: Settings, loads: list[str]) -> None:
    run = manager.submit(asked)
    assert run.wait(60)
    assert run.view.status == "done", run.view.reason
    snapshot = run.view.snapshot
    assert snapshot is not None
    for side in snapshot.sides:
        for image in (side.render, side.depth, side.x0_hat, side.gradient, side.clipped):
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[-1] == 3
        assert side.x0_hat.std() > 0
        assert side.gradient.std() > 0
    kinds = [line["depth"] for line in run.folder.read_metrics()]
    assert len(kinds) == 3
    assert run.view.model
    assert run.view.device == "cpu"


def test_the_model_stays_warm_until_another_is_asked_for(
    manager: RunManager, asked: Settings, loads: list[str], model_folders: dict[str, Path]
) -> None:
    other = dataclasses.replace(asked, model=str(model_folders["sd-v"]))
    for each in (asked, asked, other, asked):
        run = manager.submit(each)
        assert run.wait(60)
        assert run.view.status == "done", run.view.reason
    assert loads == [asked.model, other.model, asked.model]


def test_the_same_settings_and_seed_give_the_same_scenes(manager: RunManager, asked: Settings) -> None:
    first, second, other = (manager.submit(each) for each in (asked, asked, dataclasses.replace(asked, seed=asked.seed + 1)))
    assert all(run.wait(60) for run in (first, second, other))
    for name in (path.name for path in first.folder.scenes.iterdir()):
        files = [(run.folder.scenes / name).read_bytes() for run in (first, second, other)]
        same = [file.split(b"end_header\n", 1)[1] for file in files]  # the header says which run it was
        assert same[0] == same[1] != same[2]


def test_unknown_words_are_told_and_the_run_goes_on(manager: RunManager, asked: Settings) -> None:
    run = manager.submit(dataclasses.replace(asked, prompt="a red zeppelin duck"))
    assert run.wait(60)
    assert run.view.status == "done"
    assert "zeppelin" in " ".join(run.view.notices)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"prompt": "zeppelin"}, "knows no word"),
        ({"model": "no/such/folder/anywhere"}, "There is no model"),
        ({"initialization.shape": "file", "initialization.file": "missing.ply"}, "missing.ply"),
    ],
)
def test_what_cannot_be_prepared_fails_with_a_sentence(manager: RunManager, asked: Settings, changes: dict, part: str) -> None:
    run = manager.submit(asked.override(changes))
    assert run.wait(60)
    assert run.view.status == "failed"
    assert part in run.view.reason
    assert "unexpected" not in run.view.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_refused_with_a_sentence(manager: RunManager, asked: Settings) -> None:
    run = manager.submit(dataclasses.replace(asked, device="cuda"))
    assert run.wait(60)
    assert (run.view.status, "CUDA" in run.view.reason) == ("failed", True)


def test_auto_says_what_it_took(asked: Settings, monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]) -> None:
    monkeypatch.setattr(models, "EMBEDDED", model_folders["sd"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepared = Preparation()(dataclasses.replace(asked, model="auto", device="auto"))
    assert prepared.notices[0] == "The embedded model, because there is no CUDA card."
    assert (prepared.model, prepared.device) == ("the embedded model", "cpu")
