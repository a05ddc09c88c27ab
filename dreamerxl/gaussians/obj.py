"""Reading the surfaces of a Wavefront .obj, with vertex colours or the texture or colour of its material; by trimesh.

Materials and textures are taken from files beside the .obj, by plain names only. Coordinates stay the file's, by
convention y up and the front towards +z.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from dreamerxl.gaussians.glb import pixels
from dreamerxl.gaussians.surface import MAX_TRIANGLES, Refused, Surface

MAX_BYTES = 300_000_000
BESIDE = (".mtl", ".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_obj(path: Path) -> list[Surface]:
    """The surfaces of an .obj. Raises Refused, or OSError where it cannot be opened."""
    import trimesh

    size = path.stat().st_size
    if size > MAX_BYTES:
        raise Refused(f"has {size:,} bytes; at most {MAX_BYTES:,} are accepted")
    data = path.read_bytes()
    if b"\0" in data[:1000]:
        raise Refused("is not an .obj: it is not text")
    try:
        beside: Any = _Beside(path.parent)
        scene = trimesh.load_scene(io.BytesIO(data), file_type="obj", resolver=beside, process=False)
        meshes = [mesh for mesh in scene.geometry.values() if isinstance(mesh, trimesh.Trimesh)]
        return [_surface(mesh) for mesh in meshes]
    except Refused:
        raise
    except Exception as error:  # the library raises anything on malformed text
        raise Refused(f"cannot be understood as an .obj ({type(error).__name__}: {str(error)[:100]})") from None


class _Beside:
    """Finds what an .obj names, in its own folder and nowhere else. trimesh asks by [name]."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def get(self, name: Any) -> bytes:
        plain = str(name).strip()
        path = self.folder / plain
        if PurePosixPath(plain).name != plain or PureWindowsPath(plain).name != plain or path.suffix.lower() not in BESIDE:
            raise FileNotFoundError(f"{plain!r} is not the plain name of a material or a picture")
        if path.resolve().parent != self.folder or not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise FileNotFoundError(f"{plain!r} is not beside the .obj")
        return path.read_bytes()


def _surface(mesh: Any) -> Surface:
    faces = np.asarray(mesh.faces)
    if len(faces) > MAX_TRIANGLES:
        raise Refused(f"has more than {MAX_TRIANGLES:,} triangles")
    if mesh.vertices.ndim != 2 or mesh.vertices.shape[1] != 3:
        raise Refused("has vertices that are not made of three numbers")
    corners = np.asarray(mesh.vertices, np.float64)[faces]
    white = np.ones_like(corners)
    visual = mesh.visual
    if visual.kind == "texture":
        image, uv = getattr(visual.material, "image", None), visual.uv
        if image is not None and uv is not None and len(uv) == len(mesh.vertices):
            flipped = np.asarray(uv, np.float64)[:, :2] * [1, -1] + [0, 1]  # v counts upwards there
            return Surface(corners, white, flipped[faces], pixels(image), linear=False)
        return Surface(corners, white * np.asarray(visual.material.main_color[:3]) / 255, linear=False)
    if visual.kind == "vertex":
        return Surface(corners, (np.asarray(visual.vertex_colors[:, :3]) / 255)[faces], linear=False)
    return Surface(corners, white * 0.5, linear=False)
