"""Checkpoints: resuming is exact, files appear whole or not at all, and anything else is refused with a sentence."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import ISM, SDS, TSM, equal, settings, values

from dreamerxl.config import Settings
from dreamerxl.errors import RunFolderError
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.training import checkpoint
from dreamerxl.training.checkpoint import State
from dreamerxl.training.trainer import Trainer

GROWING = {
    "densification__enabled": True,
    "densification__start": 1,
    "densification__every": 2,
    "densification__grad_threshold": 1e-6,
    "densification__reset_every": 4,
    "losses__depth_ratio": 0.3,
}


def advance(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


@pytest.mark.parametrize("changes", [{}, GROWING], ids=["fixed", "growing"])
def test_resuming_is_exact(changes: dict, guidance: Guidance, tmp_path: Path) -> None:
    config = settings(**changes)
    whole = advance(Trainer(config, guidance), 6)
    first = advance(Trainer(config, guidance), 3)
    checkpoint.save(tmp_path / "0000003.safetensors", first.state_dict())
    resumed = Trainer(config, guidance)
    resumed.load_state_dict(checkpoint.load(tmp_path / "0000003.safetensors"))
    assert resumed.iteration == 3 and equal(values(first), values(resumed))
    advance(resumed, 3)
    assert equal(values(whole), values(resumed))
    if changes:
        assert len(whole.sides[0].params["means"]) != config.initialization.count


def test_saving_disturbs_nothing(guidance: Guidance, tmp_path: Path) -> None:
    plain, saving = Trainer(settings(**GROWING), guidance), Trainer(settings(**GROWING), guidance)
    for i in range(4):
        plain.step()
        checkpoint.save(tmp_path / f"{i}.safetensors", saving.state_dict())
        saving.step()
    assert equal(values(plain), values(saving))


def test_a_state_does_not_follow_the_training(guidance: Guidance) -> None:
    trainer = advance(Trainer(settings(), guidance), 1)
    state = trainer.state_dict()
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    advance(trainer, 1)
    assert all(torch.equal(before[name], state.tensors[name]) for name in before)


def test_live_changes_are_kept(guidance: Guidance, tmp_path: Path) -> None:
    trainer = Trainer(settings(), guidance)
    trainer.replace_variant(1, dataclasses.replace(TSM, gamma=0.75))
    checkpoint.save(tmp_path / "a.safetensors", trainer.state_dict())
    state = checkpoint.load(tmp_path / "a.safetensors")
    resumed = Trainer(settings(), guidance)
    resumed.load_state_dict(state)
    assert resumed.sides[1].variant.gamma == 0.75 and resumed.settings == trainer.settings
    assert Settings.from_dict(state.values["settings"]) == trainer.settings


def test_a_checkpoint_of_another_run_is_refused(guidance: Guidance) -> None:
    state = Trainer(settings((ISM, TSM)), guidance).state_dict()
    with pytest.raises(RunFolderError, match=r"has 2 side\(s\) and the run 1"):
        Trainer(settings((SDS,)), guidance).load_state_dict(state)
    del state.tensors["1.params.means"]
    with pytest.raises(RunFolderError, match="lacks the parameters means"):
        Trainer(settings((ISM, TSM)), guidance).load_state_dict(state)


def small(iteration: int) -> State:
    return State({"x": torch.arange(5.0) + iteration}, {"iteration": iteration, "settings": {}})


def test_round_trip_is_exact(tmp_path: Path) -> None:
    odd = State({"half": torch.rand(3, 2).half(), "strided": torch.rand(4, 6).T, "scalar": torch.tensor(7.0)}, {"iteration": 1})
    checkpoint.save(tmp_path / "deep" / "a.safetensors", odd)
    again = checkpoint.load(tmp_path / "deep" / "a.safetensors")
    for name, tensor in odd.tensors.items():
        assert torch.equal(again.tensors[name], tensor) and again.tensors[name].dtype == tensor.dtype
    assert again.values["iteration"] == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, small(1))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(RunFolderError, match=r"a\.safetensors cannot be written.*No space left"):
                checkpoint.save(path, small(2))
    assert checkpoint.load(path).values["iteration"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_that_is_a_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "a.safetensors", small(1))


def test_torn_and_foreign_files_are_refused_and_passed_over(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None and checkpoint.latest(tmp_path / "nowhere") is None
    for iteration in (1, 10, 9):
        checkpoint.save(tmp_path / f"{iteration}.safetensors", small(iteration))
    whole = (tmp_path / "10.safetensors").read_bytes()
    (tmp_path / "11.safetensors").write_bytes(whole[:-3])
    (tmp_path / "12.safetensors").write_bytes(b"")
    (tmp_path / "13.safetensors").write_bytes(b"\x80\x04pickle")
    (tmp_path / ".14.safetensors-x.part").write_bytes(whole)
    save_file({"x": torch.zeros(1)}, tmp_path / "15.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "16.safetensors", metadata={"state": '{"format": 99, "iteration": 16}'})
    refused = {**dict.fromkeys(("11", "12", "13"), "cannot be read"), "15": "format None", "16": "format 99"}
    for name, sentence in refused.items():
        with pytest.raises(RunFolderError, match=rf"{name}\.safetensors.*{sentence}"):
            checkpoint.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(RunFolderError, match="cannot be read"):
        checkpoint.load(tmp_path / "missing.safetensors")
    assert checkpoint.latest(tmp_path) == tmp_path / "10.safetensors"
