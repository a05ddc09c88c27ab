"""Spoilt input ends in a value or in a sentence, never in anything else. benchmarks/fuzz.py throws far more of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.fuzz import SHARES, fuzz, targets
from dreamerxl.config import load_settings
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.gaussians.initialize import read_scene
from dreamerxl.runs.metadata import read_about


@pytest.mark.parametrize("name", list(SHARES))
def test_spoilt_input_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    result = fuzz(targets(tmp_path)[name], 250, seed=20261125)
    assert result.crashes == [] and result.inputs == 250


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "prompt: !!python/object/apply:os.system ['touch {mark}']",
        "a: &a [1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nprompt: [*b, *b, *b, *b, *b, *b, *b, *b]",
        "extends: ../../../etc/passwd",
        "extends: /etc/passwd",
        "prompt: " + "x" * 2_000_000,
        "[" * 5000,
    ],
    ids=["tag", "nested tag", "aliases", "path", "absolute path", "2 MB", "depth"],
)
def test_hostile_presets_are_refused_and_do_nothing(text: str, tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    (tmp_path / "preset.yaml").write_text(text.replace("{mark}", str(mark)))
    with pytest.raises(SettingsError):
        load_settings(tmp_path / "preset.yaml")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".spz", ".glb", ".obj", ".png", ".pkl"])
@pytest.mark.parametrize("kind", ["pickle", "zip bomb", "text", "nothing"])
def test_files_of_another_kind_are_refused_and_do_nothing(kind: str, suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"upload{suffix}", tmp_path / "touched"
    if kind == "pickle":
        path.write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    elif kind == "zip bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("scene.ply", bytes(200_000_000))
    else:
        path.write_bytes(b"<script>alert(1)</script>" if kind == "text" else b"")
    for read in (lambda: read_scene(path, 100, torch.Generator()), lambda: read_about(path)):
        with pytest.raises(DreamerError):
            read()
    assert not mark.exists()


@pytest.mark.parametrize("vertices", ["v 0 0\nv 1 0\nv 0 1\n", "v 0\nv 1\nv 2\n"])
def test_an_obj_that_is_not_in_space_is_refused_before_anything_is_computed(vertices: str, tmp_path: Path) -> None:
    (tmp_path / "flat.obj").write_text(f"{vertices}f 1 2 3\n")
    with pytest.raises(DreamerError, match=r"flat\.obj (has vertices that are not made of three numbers|cannot be understood)"):
        read_scene(tmp_path / "flat.obj", 100, torch.Generator())
