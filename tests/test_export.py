"""Scenes written as .ply: read back, read by others' rules, and never half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import splatting_reference as reference
import torch

from dreamerxl import files
from dreamerxl.gaussians.ply import read_ply, write_ply
from dreamerxl.gaussians.scene import FrozenSplats, Params, freeze, make_params


def make(count: int) -> Params:
    return make_params(*(t.float() for t in reference.random_scene(count, 0, opacity=(0.01, 0.99))))


def columns(path: Path) -> tuple[list[str], np.ndarray]:
    """Property names and rows of a binary little-endian file of floats; a second, minimal reader."""
    header, data = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property float ")]
    return names, np.frombuffer(data, "<f4").reshape(-1, len(names))


@pytest.mark.parametrize("count", [0, 1, 250])
def test_round_trip(tmp_path: Path, count: int) -> None:
    splats = freeze(make(250))
    splats = FrozenSplats(*(a[:count] for a in vars(splats).values()))
    write_ply(tmp_path / "scene.ply", splats)
    names, rows = columns(tmp_path / "scene.ply")
    assert rows.shape == (count, 17)
    assert " ".join(names) == "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    if count:
        again = read_ply(tmp_path / "scene.ply")
        assert isinstance(again, FrozenSplats)
        for name, array in vars(splats).items():
            np.testing.assert_allclose(getattr(again, name), array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_same_numbers_as_gsplat_writes(tmp_path: Path) -> None:
    from gsplat import export_splats

    params = make(50)
    with torch.no_grad():
        params["quats"].div_(params["quats"].norm(dim=-1, keepdim=True))
        export_splats(
            params["means"], params["scales"], params["quats"], params["opacities"], params["sh0"],
            torch.zeros(50, 0, 3), format="ply", save_to=str(tmp_path / "theirs.ply"),
        )  # fmt: skip
    write_ply(tmp_path / "ours.ply", freeze(params))
    (their_names, theirs), (our_names, ours) = columns(tmp_path / "theirs.ply"), columns(tmp_path / "ours.ply")
    assert set(our_names) - set(their_names) == {"nx", "ny", "nz"}
    for n, name in enumerate(their_names):
        np.testing.assert_allclose(ours[:, our_names.index(name)], theirs[:, n], rtol=1e-4, atol=1e-5, err_msg=name)
    for name, array in vars(freeze(params)).items():
        np.testing.assert_allclose(getattr(read_ply(tmp_path / "theirs.ply"), name), array, rtol=1e-5, atol=1e-6)


def test_extreme_values_stay_finite(tmp_path: Path) -> None:
    frozen = freeze(make(2))
    extreme = FrozenSplats(frozen.means, frozen.quats, frozen.scales * 0, np.array([0, 1], np.float32), frozen.rgbs)
    write_ply(tmp_path / "scene.ply", extreme)
    assert np.isfinite(columns(tmp_path / "scene.ply")[1]).all()
    read_ply(tmp_path / "scene.ply")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.ply"
    write_ply(path, freeze(make(5)))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_ply(path, freeze(make(9)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["scene.ply"]
