"""Pickled weights are refused, and converted where the command line says so: to the same numbers, running nothing of them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreamerxl.__main__ import main
from dreamerxl.errors import WeightsError
from dreamerxl.guidance.models import load_guidance
from dreamerxl.guidance.pickles import convert

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}


class Touches:
    """Unpickled in full, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def pickled(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    """The tiny model with .bin files in place of its .safetensors, the UNet in two shards."""
    folder = tmp_path / "pickled"
    shutil.copytree(model_folders["sd"], folder)
    for part, stem in PARTS.items():
        (safe,) = (folder / part).glob("*.safetensors")
        weights = load_file(safe)
        safe.unlink()
        if part != "unet":
            torch.save(weights, folder / part / f"{stem}.bin")
            continue
        names = list(weights)
        shards = {f"{stem}-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
        for name, keys in shards.items():
            torch.save({key: weights[key] for key in keys}, folder / part / name)
        listing = {"metadata": {}, "weight_map": {key: name for name, keys in shards.items() for key in keys}}
        (folder / part / f"{stem}.bin.index.json").write_text(json.dumps(listing))
    return folder


def test_a_pickled_folder_is_refused_and_read_once_it_is_converted(pickled: Path, model_folders: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="can run code and is not read; --allow-pickle-weights"):
        load_guidance(str(pickled), "cpu")
    assert convert(str(pickled)) == str(pickled)
    taken, plain = (load_guidance(str(folder), "cpu") for folder in (pickled, model_folders["sd"]))
    for part in ("unet", "vae"):
        theirs = getattr(plain, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in getattr(taken, part).state_dict().items())
    assert torch.equal(taken.text_encoders[0].state_dict().popitem()[1], plain.text_encoders[0].state_dict().popitem()[1])
    before = {path: path.stat().st_mtime_ns for path in pickled.rglob("*.safetensors")}
    convert(str(pickled))  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in pickled.rglob("*.safetensors")} == before


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_single_file_becomes_one_beside_it(suffix: str, tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2)}
    weights["c"] = weights["b"]  # shares its memory
    torch.save({"state_dict": weights, "global_step": 7}, tmp_path / f"model{suffix}")
    made = convert(str(tmp_path / f"model{suffix}"))
    assert made == str(tmp_path / "model.safetensors")
    found = load_file(made)
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    with pytest.raises(WeightsError, match="not a Stable Diffusion checkpoint"):
        load_guidance(made, "cpu")


def test_what_is_not_only_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"a": torch.ones(1), "b": Touches(touched)}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Touches(touched), protocol=2))
    (tmp_path / "c.ckpt").write_bytes(b"")
    (tmp_path / "d.ckpt").write_bytes(b"PK\x03\x04 torn")
    torch.save([1, 2], tmp_path / "e.ckpt")
    for name in "abcde":
        with pytest.raises(WeightsError, match=rf"(?s){name}\.ckpt.*\.$"):
            convert(str(tmp_path / f"{name}.ckpt"))
        assert not (tmp_path / f"{name}.safetensors").exists()
    assert not touched.exists()


def test_the_command_line_refuses_without_the_flag_and_takes_it(pickled: Path, tmp_path: Path, capsys: Any) -> None:
    asked = [
        "run",
        "--model",
        str(pickled),
        "--prompt",
        "a red duck",
        "--iterations",
        "1",
        "--set",
        "views.batch=1",
        "--no-video",
    ]
    asked += ["--set", "views.resolution=32", "--set", "initialization.count=20", "--set", "densification.enabled=false"]
    assert main([*asked, "--out", str(tmp_path / "refused")]) == 1
    assert "--allow-pickle-weights" in capsys.readouterr().err
    assert main([*asked, "--out", str(tmp_path / "taken"), "--allow-pickle-weights"]) == 0
