"""Scenes in the formats of other programs, read by those programs' kind: gsply, plyfile, trimesh, splat-transform."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import gsply
import numpy as np
import pytest
import splatting_reference as reference
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from dreamerxl.errors import SceneFileError
from dreamerxl.gaussians import spz
from dreamerxl.gaussians.export import FORMATS, export
from dreamerxl.gaussians.mesh import LEVEL, make_mesh
from dreamerxl.gaussians.scene import FrozenSplats, freeze, make_params
from dreamerxl.gaussians.spz import read_spz, write_spz

Y_UP = [1, 2, 0]  # our axes in the order of formats whose y is up and whose front is +z
SPLAT_TRANSFORM = os.environ.get("SPLAT_TRANSFORM") or shutil.which("splat-transform")


def scene(count: int = 300, seed: int = 0) -> FrozenSplats:
    return freeze(make_params(*(t.float() for t in reference.random_scene(count, seed, opacity=(0.01, 0.99)))))


def ball(radius: float = 0.5, spread: float = 0.06, count: int = 4000) -> FrozenSplats:
    """Dense points on a sphere, red in front (+x) and blue behind, with a stray point far away."""
    directions = np.random.default_rng(1).normal(size=(count, 3))
    means = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    means[0] = (1.5, 0, 0)
    rgbs = np.where(means[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.2, 0.8]])
    parts = means, np.tile([1.0, 0, 0, 0], (count, 1)), np.full((count, 3), spread), np.full(count, 0.5), rgbs
    return FrozenSplats(*(part.astype(np.float32) for part in parts))


def same_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|cos| of half the angle between rotations [N, 4], 1 where they are equal."""
    return np.abs((a * b).sum(1)) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_plyfile_finds_every_gaussian_and_the_note(tmp_path: Path):
    splats, note = scene(), json.dumps({"prompt": "ab" * 500, "end": "end_header"}, separators=(",", ":"))
    export(tmp_path / "scene.ply", splats, note)
    read = PlyData.read(tmp_path / "scene.ply")
    vertex = read["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[name] for name in "xyz"], 1), splats.means)
    assert "".join(comment.removeprefix("dreamerxl ") for comment in read.comments) == note


def test_gsply_reads_the_ply_with_the_same_values(tmp_path: Path):
    splats = scene()
    export(tmp_path / "scene.ply", splats, "about")
    read = gsply.plyread(str(tmp_path / "scene.ply"))
    np.testing.assert_array_equal(read.means, splats.means)
    np.testing.assert_allclose(np.exp(read.scales), splats.scales, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-np.ravel(read.opacities))), splats.opacities, atol=1e-5)
    assert same_rotation(read.quats, splats.quats).min() > 1 - 1e-6


def test_gsply_reads_the_spz_in_its_own_axes(tmp_path: Path):
    splats = scene()
    export(tmp_path / "scene.spz", splats)
    read = gsply.read_spz(str(tmp_path / "scene.spz"))
    assert len(read.means) == len(splats)
    np.testing.assert_allclose(read.means, splats.means[:, Y_UP], atol=1e-6)
    np.testing.assert_allclose(read.scales, np.log(splats.scales)[:, Y_UP], atol=1 / 32 + 1e-6)
    np.testing.assert_allclose(0.5 + 0.28209479 * read.sh0, splats.rgbs, atol=0.28209479 / 0.15 / 510 + 1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-np.ravel(read.opacities))), splats.opacities, atol=1 / 510 + 1e-5)
    quats = splats.quats[:, [0, *(1 + axis for axis in Y_UP)]]  # a cyclic change of axes turns the vector part alone
    assert same_rotation(read.quats, quats).min() > 1 - 1e-5


@pytest.mark.parametrize("count", [0, 1, 257])
def test_spz_comes_back(tmp_path: Path, count: int):
    splats = FrozenSplats(*(part[:count] for part in vars(scene()).values()))
    write_spz(tmp_path / "scene.spz", splats)
    again = read_spz(tmp_path / "scene.spz")
    assert len(again) == count
    np.testing.assert_allclose(again.means, splats.means, atol=1e-6)
    np.testing.assert_allclose(np.log(again.scales), np.log(splats.scales), atol=1 / 32 + 1e-6)
    np.testing.assert_allclose(again.rgbs, splats.rgbs, atol=4e-3)
    np.testing.assert_allclose(again.opacities, splats.opacities, atol=2e-3)
    if count:
        assert same_rotation(again.quats, splats.quats).min() > 1 - 1e-5


def test_what_others_write_as_spz_is_read(tmp_path: Path):
    splats = scene()
    logits = np.log(splats.opacities / (1 - splats.opacities))
    sh0 = (splats.rgbs - 0.5) / 0.28209479
    theirs = gsply.GSData(
        means=splats.means[:, Y_UP].copy(), scales=np.log(splats.scales)[:, Y_UP].copy(),
        quats=splats.quats[:, [0, *(1 + axis for axis in Y_UP)]].copy(), opacities=logits, sh0=sh0, shN=None,
    )  # fmt: skip
    gsply.write_spz(str(tmp_path / "theirs.spz"), theirs)
    again = read_spz(tmp_path / "theirs.spz")
    np.testing.assert_allclose(again.means, splats.means, atol=2e-4)
    np.testing.assert_allclose(again.rgbs, splats.rgbs, atol=8e-3)
    assert same_rotation(again.quats, splats.quats).min() > 1 - 1e-5


def test_version_two_of_spz_is_read():
    """One Gaussian by hand: at (1, -2, 3) of the format, no turn about its own x by half a turn."""
    header = struct.pack("<IIIBBBB", 0x5053474E, 2, 1, 0, 12, 0, 0)
    positions = b"".join((value * 4096).to_bytes(3, "little", signed=True) for value in (1, -2, 3))
    body = positions + bytes([255]) + bytes([128] * 3) + bytes([160] * 3) + bytes([255, 128, 128])
    read = spz.unpack(header + body)
    np.testing.assert_allclose(read.means, [[3, 1, -2]])
    np.testing.assert_allclose(read.scales, [[1, 1, 1]])
    assert same_rotation(read.quats, np.array([[0, 0, 1.0, 0]])).min() > 0.999  # its x is our y
    assert read.opacities[0] == 1


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_damaged_spz_is_refused_in_a_sentence(tmp_path_factory: Any, noise: bytes, count: int, degree: int):
    path = tmp_path_factory.mktemp("spz") / "scene.spz"
    for data in (noise, gzip.compress(noise), gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, count, degree, 9, 0, 0))):
        path.write_bytes(data)
        if count == 0 and degree <= 4 and data[:2] == b"\x1f\x8b" and len(data) > 20 and data != gzip.compress(noise):
            continue  # an empty scene is a scene
        with pytest.raises(SceneFileError, match=r"scene\.spz"):
            read_spz(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path):
    (tmp_path / "bomb.spz").write_bytes(gzip.compress(bytes(600_000_000), 9))
    with pytest.raises(SceneFileError, match="larger than any scene"):
        read_spz(tmp_path / "bomb.spz")


def test_splat_rows_hold_position_scale_color_and_rotation_the_most_visible_first(tmp_path: Path):
    splats = scene()
    export(tmp_path / "scene.splat", splats)
    rows = np.fromfile(tmp_path / "scene.splat", np.dtype("3<f4, 3<f4, 4u1, 4u1"))
    assert len(rows) == len(splats)
    weights = rows["f1"].prod(1) * rows["f2"][:, 3]
    assert (weights[:30] > np.median(weights)).all()
    place = {tuple(mean): index for index, mean in enumerate(splats.means)}
    order = [place[tuple(position)] for position in rows["f0"]]
    assert sorted(order) == list(range(len(splats)))
    np.testing.assert_array_equal(rows["f1"], splats.scales[order])
    np.testing.assert_allclose(rows["f2"][:, :3] / 255, splats.rgbs[order], atol=1 / 509)
    quats = (rows["f3"].astype(float) - 128) / 128
    assert same_rotation(quats, splats.quats[order]).min() > 0.9998


def test_trimesh_reads_the_mesh_closed_upright_and_facing_front(tmp_path: Path):
    splats, radius = ball(), 0.5
    export(tmp_path / "scene.glb", splats, '{"seed": 3}')
    mesh: Any = trimesh.load(tmp_path / "scene.glb", force="mesh")
    assert mesh.is_watertight and mesh.body_count == 1  # one surface: the stray point and the hollow inside are gone
    spread = np.linalg.norm(mesh.vertices, axis=1)
    assert radius < spread.min() and spread.max() < radius + 3 * 0.06
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * spread.mean() ** 3, rel=0.02)  # positive: wound outwards
    ours = make_mesh(splats)
    assert (len(mesh.vertices), len(mesh.faces)) == (len(ours.vertices), len(ours.triangles))
    np.testing.assert_allclose(mesh.bounds[0], ours.vertices[:, Y_UP].min(0), atol=1e-6)
    np.testing.assert_allclose(mesh.bounds[1], ours.vertices[:, Y_UP].max(0), atol=1e-6)
    assert ((ours.vertices / np.linalg.norm(ours.vertices, axis=1)[:, None]) * ours.normals).sum(1).min() > 0.9
    front = ours.rgbs[ours.vertices[:, 0] > 0.3]
    np.testing.assert_allclose(front.mean(0), [0.9, 0.1, 0.1], atol=0.02)
    data = (tmp_path / "scene.glb").read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    assert tree["asset"]["extras"]["dreamerxl"] == '{"seed": 3}'
    view = tree["bufferViews"][tree["accessors"][2]["bufferView"]]
    colors = np.frombuffer(data, "<u2", len(mesh.vertices) * 4, 28 + length + view["byteOffset"]).reshape(-1, 4) / 65535
    red = colors[mesh.vertices[:, 2] > 0.3]  # glTF's front
    np.testing.assert_allclose(red.mean(0), [0.787, 0.0103, 0.0103, 1], atol=0.02)  # sRGB 0.9 and 0.1 in linear light


def test_a_scene_without_a_surface_is_told(tmp_path: Path):
    splats = ball()
    thin = FrozenSplats(splats.means, splats.quats, splats.scales, splats.opacities * 0.001 * LEVEL, splats.rgbs)
    with pytest.raises(SceneFileError, match="too thin for a mesh"):
        export(tmp_path / "scene.glb", thin)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.ply, \.splat, \.spz, \.glb"):
        export(tmp_path / "scene.obj", scene())


@pytest.mark.skipif(
    SPLAT_TRANSFORM is None, reason="splat-transform is not installed (npm install -g @playcanvas/splat-transform)"
)
@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".glb"])
def test_splat_transform_finds_the_same_count_and_bounds(tmp_path: Path, suffix: str):
    splats = scene()
    export(tmp_path / f"scene{suffix}", splats, "about")
    command = [str(SPLAT_TRANSFORM), "-w", str(tmp_path / f"scene{suffix}"), str(tmp_path / "out.ply")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    vertex = PlyData.read(tmp_path / "out.ply")["vertex"]
    means = np.stack([vertex[name] for name in "xyz"], 1)
    assert len(means) == len(splats)
    # A .ply's y points down and its z away: from an .spz, whose y is up, that is half a turn about x.
    ours = splats.means if suffix != ".spz" else splats.means[:, Y_UP] * [1, -1, -1]
    np.testing.assert_allclose(means.min(0), ours.min(0), atol=1e-5)
    np.testing.assert_allclose(means.max(0), ours.max(0), atol=1e-5)
