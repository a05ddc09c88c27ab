"""Scenes of other programs as the start of a run: .splat, .glb and .obj, written by other libraries, good and bad."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dreamerxl.config import Initialization
from dreamerxl.errors import SceneFileError
from dreamerxl.gaussians import glb, obj
from dreamerxl.gaussians.initialize import initialize, read_scene, upright
from dreamerxl.gaussians.mesh import Mesh
from dreamerxl.gaussians.mesh import glb as write_mesh
from dreamerxl.gaussians.ply import Points, write_ply
from dreamerxl.gaussians.scene import FrozenSplats, activate, covariances, freeze, make_params, thaw
from dreamerxl.gaussians.splat import read_splat, write_splat
from dreamerxl.gaussians.surface import Refused, Surface, sample, to_linear, to_srgb


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points_of(path: Path, count: int = 2000) -> Points:
    scene = read_scene(path, count, seeded())
    assert isinstance(scene, Points) and len(scene) == count and scene.rgbs is not None
    return scene


# --- the surface ---


def test_points_are_even_over_the_area_and_lie_in_the_triangles() -> None:
    small, large = [[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 5], [4, 0, 5], [0, 4, 5]]
    corners = np.array([small, large, [[9, 9, 9]] * 3], float)  # areas 1/2, 8, 0
    red, green = np.tile([1.0, 0, 0], (1, 3, 1)), np.tile([0, 1.0, 0], (2, 3, 1))
    points = sample([Surface(corners[:1], red), Surface(corners[1:], green)], 20_000, seeded())
    assert points.rgbs is not None
    low = points.means[:, 2] < 1
    assert abs(low.mean() - 0.5 / 8.5) < 0.01
    assert np.array_equal(points.rgbs[low], np.tile([1, 0, 0], (low.sum(), 1))) and np.array_equal(
        points.rgbs[~low], np.tile([0, 1, 0], ((~low).sum(), 1))
    )
    inside = points.means[~low][:, :2] / 4
    assert inside.min() >= 0 and inside.sum(1).max() <= 1 + 1e-6
    np.testing.assert_allclose(inside.mean(0), [1 / 3, 1 / 3], atol=0.01)  # the centroid
    assert abs((inside.sum(1) < 0.5).mean() - 0.25) < 0.02  # the half-size triangle at the corner has a quarter of the area


def test_only_the_generator_decides() -> None:
    surface = [Surface(np.random.default_rng(0).normal(size=(20, 3, 3)), np.full((20, 3, 3), 0.5))]
    first, again, other = (sample(surface, 100, seeded(n)).means for n in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("corners", [np.zeros((0, 3, 3)), np.ones((2, 3, 3)), np.full((1, 3, 3), np.nan)])
def test_what_has_no_surface_is_refused(corners: np.ndarray) -> None:
    with pytest.raises(Refused):
        sample([Surface(corners, np.ones_like(corners))], 10, seeded())


def test_light_and_srgb_undo_each_other() -> None:
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(to_linear(to_srgb(values)), values, atol=1e-6)
    assert to_srgb(np.array(0.5)) == pytest.approx(0.7354, abs=1e-4)  # a fact about sRGB


# --- .glb, written by trimesh ---


def box(**visual: Any) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=(2, 4, 6), **visual)


def pattern() -> Image.Image:
    """Left half red, right half blue; the lower rows dark."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:, 2] = 200, 100
    pixels[4:] //= 2
    return Image.fromarray(pixels)


def quad(image: Image.Image | None = None, factor: list[float] | None = None) -> trimesh.Trimesh:
    """A unit square in the x-y plane whose texture's left edge lies at x = 0 and top edge at y = 1."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=factor)
    visual = trimesh.visual.TextureVisuals(uv=vertices[:, :2], material=material)
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def saved(mesh: Any, path: Path) -> Path:
    mesh.export(path)
    return path


def test_a_textured_glb_keeps_the_place_of_its_colours(tmp_path: Path) -> None:
    points = points_of(saved(quad(pattern()), tmp_path / "quad.glb"), 4000)
    x, y = points.means[:, 0], points.means[:, 1]
    assert points.rgbs is not None
    for left in (True, False):
        for upper in (True, False):
            here = ((x < 0.4) if left else (x > 0.6)) & ((y > 0.6) if upper else (y < 0.4))
            here &= (x > 0.1) & (x < 0.9) & (y > 0.1) & (y < 0.9)  # textures repeat: at the rim they blend with the other side
            expected = np.array([200, 0, 0] if left else [0, 0, 100]) / (255 if upper else 510)
            np.testing.assert_allclose(points.rgbs[here], np.tile(expected, (here.sum(), 1)), atol=0.01)
            assert here.sum() > 100


def test_a_base_colour_multiplies_the_texture_in_linear_light(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    points = points_of(saved(quad(grey, [0.5, 1.0, 0.0, 1.0]), tmp_path / "tinted.glb"))
    assert points.rgbs is not None
    light = to_linear(np.array(128 / 255))
    expected = to_srgb(np.array([light * 128 / 255, light, 0]))  # trimesh keeps the factor as a byte
    np.testing.assert_allclose(points.rgbs, np.tile(expected, (len(points), 1)), atol=0.01)


def test_vertex_colours_are_linear_light_and_interpolated(tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)
    colors = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], np.uint8)
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2]], vertex_colors=colors, process=False)
    points = points_of(saved(mesh, tmp_path / "corners.glb"))
    weights = np.stack([1 - points.means[:, 0] - points.means[:, 1], points.means[:, 0], points.means[:, 1]], 1)
    np.testing.assert_allclose(points.rgbs, to_srgb(weights.clip(0, 1)), atol=5e-3)


def test_nodes_place_their_meshes(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1])  # x to y
    move = trimesh.transformations.translation_matrix([10, 0, 0])
    scene.add_geometry(box(), transform=move @ turn @ np.diag([2, 1, 1, 1]))
    scene.add_geometry(box(), transform=trimesh.transformations.translation_matrix([-10, 0, 0]))
    points = points_of(saved(scene, tmp_path / "two.glb"), 20_000)
    right = points.means[points.means[:, 0] > 0]
    left = points.means[points.means[:, 0] < 0]
    np.testing.assert_allclose((right.min(0), right.max(0)), ([8, -2, -3], [12, 2, 3]), atol=0.05)
    np.testing.assert_allclose((left.min(0), left.max(0)), ([-11, -2, -3], [-9, 2, 3]), atol=0.05)


def test_our_own_meshes_come_back_with_their_colours(tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # in our axes
    rgbs = np.array([[0.8, 0.2, 0.1]] * 3, np.float32)
    mesh = Mesh(vertices=vertices, normals=np.array([[1.0, 0, 0]] * 3, np.float32), triangles=np.array([[0, 1, 2]]), rgbs=rgbs)
    (tmp_path / "ours.glb").write_bytes(write_mesh(mesh))
    points = points_of(tmp_path / "ours.glb")
    assert points.rgbs is not None
    np.testing.assert_allclose(points.rgbs, np.tile(rgbs[0], (len(points), 1)), atol=1e-3)
    start = Initialization(shape="file", file=str(tmp_path / "ours.glb"), count=500, radius=1)
    means = activate(initialize(start, seeded())).means
    assert means[:, 0].abs().max() < 1e-6 and means[:, 1].std() > 0.1 and means[:, 2].std() > 0.1  # back in our axes


def header(tree: Any, body: bytes = b"", **lie: int) -> bytes:
    head = json.dumps(tree).encode() if not isinstance(tree, bytes) else tree
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<I4s", lie.get("head", len(head)), b"JSON") + head
    chunks += struct.pack("<I4s", lie.get("body", len(body)), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", lie.get("version", 2), lie.get("length", 12 + len(chunks))) + chunks


def triangle(**changes: Any) -> dict[str, Any]:
    """A whole .glb tree of one triangle, in a buffer of 36 bytes."""
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"byteLength": 36}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
    }
    return tree | changes


BODY = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
PICTURE = io.BytesIO()
pattern().save(PICTURE, "PNG")
TEXTURED: dict[str, Any] = {
    "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
    "textures": [{"source": 0}],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 0}, "material": 0}]}],
}
ACCESSOR = triangle()["accessors"][0]
BAD_GLB = {
    "nothing": (b"", "is not a .glb"),
    "text": (b"solid cube\n" * 9, "is not a .glb"),
    "old": (header(triangle(), BODY, version=1), "version 1; version 2 is accepted"),
    "cut": (header(triangle(), BODY)[:-20], "is cut short"),
    "long head": (header(triangle(), BODY, head=10**8), "is cut short"),
    "not json": (header(b"{nope"), "not JSON"),
    "a list": (header([1]), "not a table"),
    "draco": (header(triangle(extensionsRequired=["KHR_draco_mesh_compression"]), BODY), "compressed meshes"),
    "empty": (header({"asset": {}}), "no triangles"),
    "outside": (header(triangle(buffers=[{"uri": "../../etc/passwd", "byteLength": 36}])), "refers to other files"),
    "web": (header(triangle(buffers=[{"uri": "http://host/a.bin", "byteLength": 36}])), "refers to other files"),
    "bad base64": (header(triangle(buffers=[{"uri": "data:application/octet-stream;base64,???"}])), "not base64"),
    "short buffer": (header(triangle(), BODY[:20]), "is cut short"),
    "huge count": (header(triangle(accessors=[{**ACCESSOR, "count": 10**9}]), BODY), "does not fit into its buffer"),
    "absurd count": (header(triangle(accessors=[{**ACCESSOR, "count": 10**30}]), BODY), "not a count"),
    "negative count": (header(triangle(accessors=[{**ACCESSOR, "count": -3}]), BODY), "not a count"),
    "no view": (header(triangle(accessors=[{"componentType": 5126, "count": 10**9, "type": "VEC3"}]), BODY), "sparse or empty"),
    "stride": (header(triangle(bufferViews=[{"buffer": 0, "byteLength": 36, "byteStride": 1}]), BODY), "does not fit"),
    "matrix type": (header(triangle(accessors=[{**ACCESSOR, "type": "MAT4"}]), BODY), "where 3 numbers are needed"),
    "no such view": (header(triangle(accessors=[{**ACCESSOR, "bufferView": 7}]), BODY), "entry 7 of its 1 bufferViews"),
    "negative view": (header(triangle(accessors=[{**ACCESSOR, "bufferView": -1}]), BODY), "entry -1"),
    "loop": (header(triangle(nodes=[{"children": [0, 0]}]), BODY), "contain themselves"),
    "place": (header(triangle(nodes=[{"mesh": 0, "translation": ["a", 0, 0]}]), BODY), "not made of numbers"),
    "vertex": (
        header(triangle(
            meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
            accessors=[ACCESSOR, {"bufferView": 0, "componentType": 5125, "count": 9, "type": "SCALAR"}],
        ), BODY),
        "has a triangle with vertex",
    ),
    "nan": (header(triangle(), struct.pack("<9f", *[np.nan] * 9)), "not finite"),
    "flat": (header(triangle(), bytes(36)), "without area"),
    "texture": (header(triangle(**TEXTURED, images=[{"uri": "data:image/png;base64,AAAA"}]), BODY), "texture that cannot be"),
    "texture path": (header(triangle(**TEXTURED, images=[{"uri": "C:\\secret.png"}]), BODY), "refers to other files"),
    "colours": (header(triangle(meshes=[{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}}]}],
                                accessors=[ACCESSOR, {**ACCESSOR, "count": 2}]), BODY), "3 positions and 2 of COLOR_0"),
}  # fmt: skip


def test_the_triangle_that_the_bad_files_are_made_of_is_good(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(header(triangle(), BODY))
    assert points_of(tmp_path / "a.glb").means.max() <= 1
    inline = triangle(buffers=[{"uri": "data:application/octet-stream;base64," + base64.b64encode(BODY).decode()}])
    (tmp_path / "b.glb").write_bytes(header(inline))
    assert np.array_equal(points_of(tmp_path / "a.glb").means, points_of(tmp_path / "b.glb").means)


@pytest.mark.parametrize("name", BAD_GLB)
@pytest.mark.filterwarnings("error")
def test_bad_glb_files_get_a_sentence(tmp_path: Path, name: str) -> None:
    content, reason = BAD_GLB[name]
    path = tmp_path / "thing.glb"
    path.write_bytes(content)
    with pytest.raises(SceneFileError, match=reason) as caught:
        read_scene(path, 100, seeded())
    assert str(caught.value).startswith("The scene file thing.glb ") and str(caught.value).endswith(".")


def test_a_texture_that_unfolds_to_gigabytes_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glb, "MAX_TEXTURE_PIXELS", 63)
    with pytest.raises(SceneFileError, match="has a texture of 8 x 8 pixels"):
        read_scene(saved(quad(pattern()), tmp_path / "quad.glb"), 10, seeded())
    with pytest.raises(SceneFileError, match="has a texture of 8 x 8 pixels"):
        read_scene(saved(quad_with_simple_material(), tmp_path / "quad.obj"), 10, seeded())


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_glb_files_never_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    mesh = saved(quad(pattern()), tmp_path / "quad.glb").read_bytes()
    content = bytearray(mesh[: data.draw(st.integers(0, len(mesh)))] if data.draw(st.booleans()) else mesh)
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.glb"
    path.write_bytes(content)
    try:
        scene = read_scene(path, 50, seeded())
    except SceneFileError as error:
        assert len(str(error)) < 400
    else:
        assert isinstance(scene, Points) and np.isfinite(scene.means).all() and np.isfinite(scene.rgbs).all()


# --- .obj, written by trimesh and by hand ---


def quad_with_simple_material() -> trimesh.Trimesh:
    mesh = quad()
    material = trimesh.visual.material.SimpleMaterial(image=pattern())
    mesh.visual = trimesh.visual.TextureVisuals(uv=mesh.vertices[:, :2], material=material)
    return mesh


def test_a_textured_obj_keeps_the_place_of_its_colours(tmp_path: Path) -> None:
    points = points_of(saved(quad_with_simple_material(), tmp_path / "quad.obj"), 4000)
    assert points.rgbs is not None and (tmp_path / "material.mtl").is_file()
    x, y = points.means[:, 0], points.means[:, 1]
    middle = (x > 0.1) & (x < 0.9) & (y > 0.1) & (y < 0.9)
    for left, upper, color in ((True, True, [200, 0, 0]), (False, True, [0, 0, 100]), (True, False, [100, 0, 0])):
        here = middle & ((x < 0.4) if left else (x > 0.6)) & ((y > 0.6) if upper else (y < 0.4))
        np.testing.assert_allclose(points.rgbs[here], np.tile(np.array(color) / 255, (here.sum(), 1)), atol=0.01)


def test_colours_of_obj_vertices_and_materials_are_taken_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "v.obj").write_text("v 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nf 1 2 3\n")
    np.testing.assert_allclose(points_of(tmp_path / "v.obj").rgbs, np.tile([1, 0, 0], (2000, 1)), atol=1e-6)
    (tmp_path / "m.mtl").write_text("newmtl leaf\nKd 0.2 0.6 0.4\n")
    (tmp_path / "m.obj").write_text("mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nusemtl leaf\nf 1 2 3 4\n")
    points = points_of(tmp_path / "m.obj")
    np.testing.assert_allclose(points.rgbs, np.tile([0.2, 0.6, 0.4], (2000, 1)), atol=3e-3)
    assert points.means[:, :2].min() < 0.05 and points.means[:, :2].max() > 0.95  # a square becomes two triangles


@pytest.mark.parametrize("name", ["../m.mtl", "/etc/passwd", "sub/m.mtl", "..\\m.mtl", "m.txt", "link.mtl", "http://host/m.mtl"])
def test_an_obj_reaches_only_what_lies_beside_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "scene"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "m.mtl", folder / "sub" / "m.mtl", folder / "m.txt", folder / "..\\m.mtl"):
        place.write_text("newmtl leaf\nKd 1 0 0\n")
    (folder / "link.mtl").symlink_to(tmp_path / "m.mtl")
    (folder / "a.obj").write_text(f"mtllib {name}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl leaf\nf 1 2 3\n")
    points = points_of(folder / "a.obj")
    assert points.rgbs is not None and not np.allclose(points.rgbs[:, 0], 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no triangles|cannot be understood"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no triangles"),
        (b"v 0 0 0\nf 1 2 3\n", "cannot be understood|no triangles"),
        (b"v a b c\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "cannot be understood|no triangles"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99999999999\n", "cannot be understood"),
        (b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        (b"\x80\x04\x95pickle\0\0", "it is not text"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bad_obj_files_get_a_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "thing.obj").write_bytes(content)
    with pytest.raises(SceneFileError, match=reason) as caught:
        read_scene(tmp_path / "thing.obj", 100, seeded())
    assert str(caught.value).startswith("The scene file thing.obj ") and str(caught.value).endswith(".")


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, suffix in ((glb, "glb"), (obj, "obj")):
        monkeypatch.setattr(module, "MAX_BYTES", 9)
        (tmp_path / f"big.{suffix}").write_bytes(bytes(10))
        with pytest.raises(SceneFileError, match=r"has 10 bytes; at most 9 are accepted"):
            read_scene(tmp_path / f"big.{suffix}", 10, seeded())


@pytest.mark.parametrize("name", ["scene.stl", "scene.pkl", "scene", "missing.glb", "missing.obj", "missing.splat", "a\0.glb"])
def test_other_kinds_and_missing_files_get_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SceneFileError, match=r"^The scene file .*(accepted: \.ply, \.splat, \.glb, \.obj|cannot be read)"):
        read_scene(tmp_path / name, 10, seeded())


# --- .splat ---


def scene(count: int = 40) -> FrozenSplats:
    generator = seeded(3)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = 0.01 + 0.2 * torch.rand(count, 3, generator=generator)
    means, rgbs = torch.randn(count, 3, generator=generator), torch.rand(count, 3, generator=generator)
    return freeze(make_params(means, quats, scales, 0.02 + 0.9 * torch.rand(count, generator=generator), rgbs))


def by_place(splats: FrozenSplats) -> FrozenSplats:
    """Sorted by position: files may order Gaussians as they like."""
    order = np.lexsort(splats.means.T)
    return FrozenSplats(*(array[order] for array in vars(splats).values()))


def same(a: FrozenSplats, b: FrozenSplats, atol: float) -> None:
    a, b = by_place(a), by_place(b)
    np.testing.assert_allclose(a.means, b.means, atol=1e-5)
    np.testing.assert_allclose(a.scales, b.scales, rtol=1e-4)
    np.testing.assert_allclose(a.opacities, b.opacities, atol=atol)
    np.testing.assert_allclose(a.rgbs, b.rgbs, atol=atol)
    one, other = (covariances(torch.from_numpy(s.quats.copy()), torch.from_numpy(s.scales.copy())) for s in (a, b))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_splats_come_back(tmp_path: Path) -> None:
    write_splat(tmp_path / "scene.splat", scene())
    same(read_splat(tmp_path / "scene.splat"), scene(), 0.5 / 255 + 1e-6)


def test_splats_of_gsplat_are_read(tmp_path: Path) -> None:
    from gsplat import export_splats

    ours = scene()
    params = make_params(
        *(torch.from_numpy(np.array(a)) for a in (ours.means, ours.quats, ours.scales, ours.opacities, ours.rgbs))
    )
    with torch.no_grad():
        export_splats(
            params["means"], params["scales"], params["quats"], params["opacities"], params["sh0"],
            torch.zeros(len(ours), 0, 3), format="splat", save_to=str(tmp_path / "theirs.splat"),
        )  # fmt: skip
    same(read_splat(tmp_path / "theirs.splat"), ours, 1 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no multiple of 32"),
        (bytes(31), "no multiple of 32"),
        (bytes(64), "not finite numbers, or are 0"),
        (struct.pack("<6f8B", np.nan, 0, 0, 1, 1, 1, *[200] * 8), "not finite"),
        (struct.pack("<6f8B", 0, 0, 0, 1, -1, 1, *[200] * 8), "or are 0"),
        (struct.pack("<6f8B", 0, 0, 0, 1, 1, 1, 0, 0, 0, 9, 128, 128, 128, 128), "or are 0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_splat_files_get_a_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "thing.splat").write_bytes(content)
    with pytest.raises(SceneFileError, match=reason) as caught:
        read_scene(tmp_path / "thing.splat", 10, seeded())
    assert str(caught.value).startswith("The scene file thing.splat ") and str(caught.value).endswith(".")


# --- axes, turning and fitting ---


def started(path: Path, **changes: Any) -> FrozenSplats:
    return freeze(initialize(Initialization(shape="file", file=str(path), count=1000, **changes), seeded()))


@pytest.mark.parametrize("up", ["z", "y", "-y"])
def test_axes_are_rotations_that_bring_up_to_up_and_front_to_front(up: Any) -> None:
    turn = upright(Initialization(shape="file", file="a.ply", up=up))
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(turn).item() == pytest.approx(1)
    tops = {"z": (0, 0, 1), "y": (0, 1, 0), "-y": (0, -1, 0)}
    fronts = {"z": (1, 0, 0), "y": (0, 0, 1), "-y": (0, 0, -1)}
    assert (turn @ torch.tensor(tops[up]).double()).tolist() == [0, 0, 1]
    assert (turn @ torch.tensor(fronts[up]).double()).tolist() == [1, 0, 0]


def test_meshes_stand_y_up_and_points_z_up(tmp_path: Path) -> None:
    saved(box(), tmp_path / "box.glb")  # 2 wide, 4 high, 6 deep
    means = started(tmp_path / "box.glb", radius=1.0).means
    size = means.max(0) - means.min(0)
    np.testing.assert_allclose(size / size.max(), [1, 2 / 6, 4 / 6], atol=0.05)
    assert np.linalg.norm(means, axis=-1).max() == pytest.approx(1)
    flat = started(tmp_path / "box.glb", up="z").means
    size = flat.max(0) - flat.min(0)
    np.testing.assert_allclose(size / size.max(), [2 / 6, 4 / 6, 1], atol=0.05)


def test_gaussians_are_turned_with_their_shapes(tmp_path: Path) -> None:
    write_ply(tmp_path / "scene.ply", scene())
    plain, turned = started(tmp_path / "scene.ply"), started(tmp_path / "scene.ply", up="-y", turn_deg=37.0)
    turn = upright(Initialization(shape="file", file="a.ply", up="-y", turn_deg=37.0)).float()
    torch.testing.assert_close(thaw(turned).means, thaw(plain).means @ turn.T, atol=1e-5, rtol=1e-5)
    before, after = (covariances(thaw(s).quats, thaw(s).scales) for s in (plain, turned))
    torch.testing.assert_close(after, turn @ before @ turn.T, atol=1e-6, rtol=1e-4)
    same(plain, scene(), 1e-5)


def test_gaussians_fit_into_the_ball_only_where_asked(tmp_path: Path) -> None:
    write_ply(tmp_path / "scene.ply", scene())
    fitted, plain = started(tmp_path / "scene.ply", fit=True, radius=0.5), started(tmp_path / "scene.ply", radius=0.5)
    assert np.linalg.norm(fitted.means, axis=-1).max() == pytest.approx(0.5, rel=1e-5)
    factor = fitted.scales[0, 0] / plain.scales[0, 0]
    np.testing.assert_allclose(fitted.scales, plain.scales * factor, rtol=1e-4)
    gaps = np.linalg.norm(np.diff(fitted.means, axis=0), axis=-1) / np.linalg.norm(np.diff(plain.means, axis=0), axis=-1)
    np.testing.assert_allclose(gaps, factor, rtol=1e-3)


def test_colours_may_be_left_behind(tmp_path: Path) -> None:
    write_ply(tmp_path / "scene.ply", scene())
    saved(quad(pattern()), tmp_path / "quad.glb")
    for name in ("scene.ply", "quad.glb"):
        assert started(tmp_path / name).rgbs.std() > 0.1
        grey = started(tmp_path / name, keep_colors=False)
        assert grey.rgbs.std() < 0.05 and abs(grey.rgbs.mean() - 0.5) < 0.02
