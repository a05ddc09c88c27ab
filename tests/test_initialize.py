"""First scenes: shapes, neighbour distances, and .ply files good and bad."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamerxl.config import Initialization
from dreamerxl.errors import SceneFileError
from dreamerxl.gaussians.initialize import initialize
from dreamerxl.gaussians.neighbours import mean_neighbour_distance
from dreamerxl.gaussians.ply import MAX_HEADER_BYTES, MAX_VERTICES, Points, read_ply
from dreamerxl.gaussians.scene import C0, FrozenSplats, activate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", ["ball", "shell", "box"])
def test_shapes_are_filled_evenly(shape: str) -> None:
    params = initialize(Initialization(shape=shape, count=4000, radius=0.6, opacity=0.2), seeded())
    splats = activate(params)
    lengths, sides = splats.means.norm(dim=-1), splats.means.abs().amax(-1)
    inner = {"ball": (lengths < 0.6 * 0.5 ** (1 / 3)), "shell": splats.means[:, 2] > 0, "box": sides < 0.6 * 0.5 ** (1 / 3)}[
        shape
    ]
    assert abs(inner.float().mean() - 0.5) < 0.03
    assert splats.means.mean(0).abs().max() < 0.03
    assert {"ball": lengths.max() <= 0.6001, "shell": (lengths - 0.6).abs().max() < 1e-6, "box": sides.max() <= 0.6}[shape]
    torch.testing.assert_close(splats.opacities, torch.full((4000,), 0.2))
    torch.testing.assert_close(splats.quats.norm(dim=-1), torch.ones(4000))
    assert abs(splats.colors.std() - 0.03) < 0.002 and abs(splats.colors.mean() - 0.5) < 0.002
    assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in params.values())


def test_scale_is_the_distance_to_the_neighbours_or_what_is_set() -> None:
    params = initialize(Initialization(count=500), seeded())
    distances = torch.cdist(params["means"].double(), params["means"].double()).topk(4, largest=False).values[:, 1:].mean(-1)
    wanted = distances.clamp(max=0.2 * 0.6).float()[:, None].expand(500, 3)
    torch.testing.assert_close(params["scales"].exp().detach(), wanted.detach(), rtol=1e-4, atol=0)
    params = initialize(Initialization(count=500, scale=0.07), seeded())
    torch.testing.assert_close(params["scales"].exp().detach(), torch.full((500, 3), 0.07))


def test_only_the_generator_decides() -> None:
    global_state = torch.random.get_rng_state()
    first, again, other = (initialize(Initialization(count=50), seeded(s)) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["means"], other["means"])
    assert torch.equal(torch.random.get_rng_state(), global_state)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 700])
@pytest.mark.parametrize("kind", ["ball", "plane", "grid", "same", "clusters"])
def test_neighbour_distances_match_all_pairs(count: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(count, 3))
    points = {
        "ball": points,
        "plane": points * [1, 1, 0],
        "grid": np.round(points),
        "same": points * 0 + 3,
        "clusters": points * 1e-3 + np.round(points) * 100,
    }[kind].astype(np.float32)
    every = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=-1)
    nearest = np.sort(every + np.diag(np.full(count, np.inf)), axis=-1)[:, : min(3, count - 1)]
    wanted = nearest.mean(-1) if count > 1 else np.zeros(1)
    np.testing.assert_allclose(mean_neighbour_distance(points), wanted, rtol=1e-4, atol=1e-6)


# --- files ---


def ply(header: list[str], data: bytes, form: str = "binary_little_endian") -> bytes:
    return "\n".join(["ply", f"format {form} 1.0", "comment made here", *header, "end_header", ""]).encode() + data


POINT_HEADER = [*(f"property float {n}" for n in "xyz"), *(f"property uchar {n}" for n in ("red", "green", "blue"))]
CORNERS = [(0, 0, 0), (4, 0, 0), (0, 2, 0), (4, 2, 1)]
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153)]


def point_file(form: str) -> bytes:
    header = [f"element vertex {len(CORNERS)}", *POINT_HEADER]
    if form == "ascii":
        lines = [" ".join(map(str, (*p, *c))) for p, c in zip(CORNERS, COLORS, strict=True)]
        return ply(header, "\n".join(lines).encode(), form)
    order = "<" if form == "binary_little_endian" else ">"
    return ply(header, b"".join(struct.pack(f"{order}3f3B", *p, *c) for p, c in zip(CORNERS, COLORS, strict=True)), form)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_colored_points_of_every_format(tmp_path: Path, form: str) -> None:
    path = tmp_path / "points.ply"
    path.write_bytes(point_file(form))
    points = read_ply(path)
    assert isinstance(points, Points) and len(points) == 4
    np.testing.assert_array_equal(points.means, np.array(CORNERS, np.float32))
    np.testing.assert_allclose(points.rgbs, np.array(COLORS) / 255, rtol=1e-6)


def test_windows_lines_doubles_faces_and_leading_elements(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    header = ["element camera 2", "property int id", "element vertex 2", *(f"property double {n}" for n in "zyx")]
    header += ["element face 1", "property list uchar int vertex_indices"]
    data = struct.pack("<2i", 7, 8) + struct.pack("<6d", 3, 2, 1, 6, 5, 4) + struct.pack("<B3i", 3, 0, 1, 0)
    path.write_bytes(ply(header, b"").replace(b"\n", b"\r\n") + data)
    points = read_ply(path)
    assert isinstance(points, Points) and points.rgbs is None
    np.testing.assert_array_equal(points.means, [[1, 2, 3], [4, 5, 6]])
    path.write_bytes(ply(header, b"7\n8\n3 2 1\n6 5 4\n3 0 1 0\n", "ascii"))
    np.testing.assert_array_equal(read_ply(path).means, [[1, 2, 3], [4, 5, 6]])


def test_points_are_centred_scaled_and_thinned(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    path.write_bytes(point_file("ascii"))
    params = initialize(Initialization(shape="file", file=str(path), count=100, radius=0.8), seeded())
    means, colors = params["means"].detach(), activate(params).colors.detach()
    assert len(means) == 4
    torch.testing.assert_close(means.amax(0) + means.amin(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(means.norm(dim=-1).max(), torch.tensor(0.8))
    torch.testing.assert_close(colors, torch.tensor(COLORS) / 255)
    ratio = (means - means[0]) / (torch.tensor(CORNERS).float() - torch.tensor(CORNERS[0]))
    torch.testing.assert_close(ratio[3], ratio[3, :1].expand(3))

    count, generator = 500, np.random.default_rng(0)
    cloud = generator.normal(size=(count, 3)).astype("<f4")
    path.write_bytes(ply([f"element vertex {count}", *POINT_HEADER[:3]], cloud.tobytes()))
    picks = [initialize(Initialization(shape="file", file=str(path), count=40), seeded(s))["means"] for s in (0, 0, 1)]
    assert len(picks[0]) == 40 and torch.equal(picks[0], picks[1]) and not torch.equal(picks[0], picks[2])


@pytest.mark.parametrize("points", [[(1, 2, 3)], [(1, 2, 3)] * 20, [(0, 0, 0)] * 19 + [(1e30, 0, 0)]])
def test_degenerate_clouds_make_finite_scenes(tmp_path: Path, points: list[tuple[float, ...]]) -> None:
    path = tmp_path / "points.ply"
    data = "\n".join(" ".join(map(str, p)) for p in points).encode()
    path.write_bytes(ply([f"element vertex {len(points)}", *POINT_HEADER[:3]], data, "ascii"))
    params = initialize(Initialization(shape="file", file=str(path), count=100), seeded())
    assert len(params["means"]) == len(points)
    assert all(torch.isfinite(p).all() for p in params.values())
    assert params["means"].norm(dim=-1).max() < 0.61


GAUSSIAN_NAMES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
GAUSSIAN_HEADER = [f"property float {name}" for name in GAUSSIAN_NAMES]


def gaussian_row(**changes: float) -> bytes:
    values = dict.fromkeys(GAUSSIAN_NAMES, 0.0) | {
        "x": 5,
        "f_dc_1": 0.3 / C0,
        "opacity": 2,
        "scale_2": -1,
        "rot_0": 2,
        "rot_3": 2,
    }
    return struct.pack(f"<{len(GAUSSIAN_NAMES)}f", *(values | changes).values())


def test_gaussians_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    path.write_bytes(ply(["element vertex 2", *GAUSSIAN_HEADER], gaussian_row() + gaussian_row(y=7)))
    splats = read_ply(path)
    assert isinstance(splats, FrozenSplats)
    np.testing.assert_array_equal(splats.means, [[5, 0, 0], [5, 7, 0]])
    np.testing.assert_allclose(splats.rgbs, [[0.5, 0.8, 0.5]] * 2, rtol=1e-6)
    np.testing.assert_allclose(splats.opacities, [1 / (1 + np.exp(-2))] * 2, rtol=1e-6)
    np.testing.assert_allclose(splats.scales, [[1, 1, np.exp(-1)]] * 2, rtol=1e-6)
    np.testing.assert_allclose(splats.quats, [[np.sqrt(0.5), 0, 0, np.sqrt(0.5)]] * 2, rtol=1e-6)
    params = initialize(Initialization(shape="file", file=str(path), count=10, radius=0.1, opacity=0.9), seeded())
    taken = activate(params)
    torch.testing.assert_close(taken.means.detach(), torch.tensor(splats.means))
    torch.testing.assert_close(taken.opacities.detach(), torch.tensor(splats.opacities))
    assert len(initialize(Initialization(shape="file", file=str(path), count=10), seeded())["means"]) == 2


BAD = {
    "text": (b"hello\nworld\n", "not a .ply"),
    "nothing": (b"", "not a .ply"),
    "endless": (b"ply\nformat ascii 1.0\nelement vertex 3\n", "'end_header' is missing"),
    "long header": (b"ply\nformat ascii 1.0\n" + b"comment x\n" * (MAX_HEADER_BYTES // 10) + b"end_header\n",
                    "'end_header' is missing"),
    "no format": (b"ply\nelement vertex 1\nproperty float x\nend_header\n", "names no format"),
    "other format": (b"ply\nformat binary_middle_endian 1.0\nend_header\n", "not understood"),
    "no vertex": (ply(["element face 3"], b""), "0 elements named 'vertex'"),
    "two vertices": (ply(["element vertex 1", "property float x", "element vertex 1"], b""), "2 elements named 'vertex'"),
    "empty": (ply(["element vertex 0", *POINT_HEADER], b""), "is empty"),
    "huge": (ply([f"element vertex {MAX_VERTICES + 1}", *POINT_HEADER], b""), "at most 5,000,000"),
    "absurd": (ply(["element vertex 99999999999999999999999", *POINT_HEADER], b""), "not understood"),
    "negative": (ply(["element vertex -3", *POINT_HEADER], b""), "not understood"),
    "truncated": (ply(["element vertex 4000000", *POINT_HEADER], b"x" * 100), "cut short"),
    "truncated text": (ply(["element vertex 4000000", *POINT_HEADER], b"1 2 3 4 5 6\n", "ascii"), "cut short"),
    "unknown type": (ply(["element vertex 1", "property quaternion x"], b""), "not understood: 'property quaternion x'"),
    "list": (ply(["element vertex 1", "property list uchar float x"], b"1234"), "list property"),
    "list before": (ply(["element face 1", "property list uchar int i", "element vertex 1", *POINT_HEADER], b""), "list"),
    "no z": (ply(["element vertex 1", "property float x", "property float y"], b"12345678"), "without z"),
    "twice": (ply(["element vertex 1", *POINT_HEADER, "property float x"], b"1" * 19), "twice"),
    "nan": (ply(["element vertex 2", *POINT_HEADER[:3]], struct.pack("<6f", 1, 2, 3, 4, np.nan, 6)), "not finite .* first in 1"),
    "infinite text": (ply(["element vertex 1", *POINT_HEADER[:3]], b"1 inf 3\n", "ascii"), "not finite"),
    "overflow": (ply(["element vertex 1", *(f"property double {n}" for n in "xyz")], struct.pack("<3d", 1e300, 0, 0)), "finite"),
    "words": (ply(["element vertex 1", *POINT_HEADER[:3]], b"1 two 3\n", "ascii"), "not a row of numbers"),
    "short row": (ply(["element vertex 2", *POINT_HEADER[:3]], b"1 2 3\n4 5      \n", "ascii"), "not a row of numbers"),
    "few rows": (ply(["element vertex 3", *POINT_HEADER[:3]], b"1.00000 2.00000 3.00000\n4 5 6\n", "ascii"), "promises"),
    "colours": (ply(["element vertex 1", *(f"property float {n}" for n in ("x", "y", "z", "red", "green", "blue"))],
                    struct.pack("<6f", 0, 0, 0, 900, 0, 0)), "colours out of range"),
    "half a Gaussian": (ply(["element vertex 1", *GAUSSIAN_HEADER[:9]], b"1" * 36), "lacks opacity, scale_0"),
    "zero rotation": (ply(["element vertex 1", *GAUSSIAN_HEADER], gaussian_row(rot_0=0, rot_3=0)), "rotation of length zero"),
    "scale": (ply(["element vertex 1", *GAUSSIAN_HEADER], gaussian_row(scale_1=80)), "scales beyond"),
    "nan opacity": (ply(["element vertex 1", *GAUSSIAN_HEADER], gaussian_row(opacity=np.nan)), "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_get_a_sentence(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    path = tmp_path / "points.ply"
    path.write_bytes(content)
    with pytest.raises(SceneFileError, match=reason) as caught:
        read_ply(path)
    assert str(caught.value).startswith("The scene file points.ply ") and str(caught.value).endswith(".")


@pytest.mark.parametrize("path", ["missing.ply", ".", "a\0b.ply", "x" * 5000])
def test_paths_that_cannot_be_read_get_a_sentence(tmp_path: Path, path: str) -> None:
    with pytest.raises(SceneFileError, match="cannot be read"):
        read_ply(tmp_path / path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([point_file("ascii"), point_file("binary_big_endian"), BAD["scale"][0]]))
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "points.ply"
    path.write_bytes(content)
    try:
        scene = read_ply(path)
    except SceneFileError as error:
        assert len(str(error)) < 400
    else:
        assert all(np.isfinite(a).all() for a in vars(scene).values() if a is not None)
