"""A scene as a triangle mesh with vertex colours, in a .glb that Blender and others open.

    density   [X, Y, Z]     sum over the Gaussians of opacity * exp(-d^2 / 2), d the Mahalanobis distance
    surface                 where the density passes LEVEL, by marching cubes; blobs that float free are left out, as are
                            hollows that nobody sees
    colours   [V, 3]        of the Gaussians at a vertex, weighted as in the density
glTF's y is up and its front +z: ours are turned there. Its vertex colours are linear, so the pictures' sRGB is undone.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from scipy import ndimage
from skimage.measure import marching_cubes

from dreamerxl.errors import SceneFileError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats, rotations

RESOLUTION = 128  # grid cells along the longest side
LEVEL = 0.4  # the silhouette of a render lies here: alpha passes a half
SMALLEST_PART = 0.01  # of the largest connected part; smaller ones float
AXES = (1, 2, 0)  # ours that become glTF's x, y, z: a rotation, for the permutation is even


@dataclass(frozen=True)
class Mesh:
    """Triangles in the training frame (z up), counter-clockwise seen from outside."""

    vertices: np.ndarray  # [V, 3] float32
    normals: np.ndarray  # [V, 3] float32, unit, outwards
    rgbs: np.ndarray  # [V, 3] float32 in 0..1, sRGB like the splats'
    triangles: np.ndarray  # [T, 3] uint32


def make_mesh(splats: FrozenSplats, resolution: int = RESOLUTION) -> Mesh:
    """The surface of a scene. Raises SceneFileError where nothing is dense enough to have one."""
    density, colors, low, step = density_grid(splats, resolution)
    inside = density > LEVEL
    labelled: Any = ndimage.label(inside)
    parts, count = labelled
    if count == 0:
        raise SceneFileError("The scene is too thin for a mesh: nowhere do its Gaussians add up to a surface.")
    sizes = np.bincount(parts.ravel())[1:]
    kept = np.concatenate([[False], sizes >= SMALLEST_PART * sizes.max()])[parts]
    hollow = np.asarray(ndimage.binary_fill_holes(kept)) & ~inside
    density = np.where(hollow, 2 * LEVEL, np.where(inside & ~kept, 0, density))
    places, triangles, normals, _ = marching_cubes(density, LEVEL, gradient_direction="ascent")
    weight = ndimage.map_coordinates(density, places.T, order=1)
    rgbs = np.stack([ndimage.map_coordinates(colors[..., k], places.T, order=1) for k in range(3)], 1)
    return Mesh(
        vertices=(low + places * step).astype(np.float32),
        normals=(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32),
        rgbs=np.clip(rgbs / np.maximum(weight, 1e-6)[:, None], 0, 1).astype(np.float32),
        triangles=triangles.astype(np.uint32),
    )


def density_grid(splats: FrozenSplats, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Density [X, Y, Z] and density-weighted colour [X, Y, Z, 3] at low + step * index; zero on the grid's border."""
    seen = splats.opacities > 0.02
    means, scales = splats.means[seen].astype(np.float64), splats.scales[seen].astype(np.float64)
    if len(means) == 0:
        return np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 3, 3), np.float32), np.zeros(3), 1.0
    turns = rotations(torch.from_numpy(splats.quats[seen].astype(np.float64))).numpy()
    scales = np.maximum(scales, 1e-6)
    precisions = (turns / scales[:, None, :] ** 2) @ turns.swapaxes(1, 2)
    reach = 3 * np.sqrt(((turns * scales[:, None, :]) ** 2).sum(2))
    low, high = np.quantile(means - reach, 0.005, axis=0), np.quantile(means + reach, 0.995, axis=0)
    step = float((high - low).max() / resolution)
    shape = np.ceil((high - low) / step).astype(int) + 3
    low = low - step
    density, colors = np.zeros(tuple(shape), np.float32), np.zeros((*shape, 3), np.float32)
    _add(means, precisions, reach, splats.opacities[seen], splats.rgbs[seen], low, step, density, colors)
    return density, colors, low, step


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add(means, precisions, reach, opacities, rgbs, low, step, density, colors):  # pragma: no cover
    """Add every Gaussian to the grid points within three standard deviations, but for the border."""
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(means)):
        for k in range(3):
            first[k] = max(1, math.ceil((means[i, k] - reach[i, k] - low[k]) / step))
            last[k] = min(density.shape[k] - 2, math.floor((means[i, k] + reach[i, k] - low[k]) / step))
        p = precisions[i]
        for a in range(first[0], last[0] + 1):
            x = low[0] + a * step - means[i, 0]
            for b in range(first[1], last[1] + 1):
                y = low[1] + b * step - means[i, 1]
                for c in range(first[2], last[2] + 1):
                    z = low[2] + c * step - means[i, 2]
                    d2 = p[0, 0] * x * x + p[1, 1] * y * y + p[2, 2] * z * z
                    d2 += 2 * (p[0, 1] * x * y + p[0, 2] * x * z + p[1, 2] * y * z)
                    if d2 < 9.0:
                        weight = opacities[i] * math.exp(-0.5 * d2)
                        density[a, b, c] += weight
                        for k in range(3):
                            colors[a, b, c, k] += weight * rgbs[i, k]


def write_glb(path: str | Path, splats: FrozenSplats, about: str = "", resolution: int = RESOLUTION) -> None:
    """Write a scene's mesh as binary glTF 2.0; ``about`` becomes asset.extras.dreamerxl. Atomic. Raises SceneFileError."""
    data = glb(make_mesh(splats, resolution), about)
    with replacing(Path(path)) as partial:
        partial.write_bytes(data)


def glb(mesh: Mesh, about: str = "") -> bytes:
    """A mesh as the bytes of a .glb: positions and normals as floats, colours as 16-bit numbers, indices as 32-bit."""
    linear = np.where(mesh.rgbs <= 0.04045, mesh.rgbs / 12.92, ((mesh.rgbs + 0.055) / 1.055) ** 2.4)
    colors = np.full((len(mesh.vertices), 4), 65535, "<u2")
    colors[:, :3] = np.round(linear * 65535)
    positions = mesh.vertices[:, AXES].astype("<f4")
    bounds = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    arrays = (  # array, glTF's number for the component type, its type, what else the accessor says
        (positions, 5126, "VEC3", bounds),
        (mesh.normals[:, AXES].astype("<f4"), 5126, "VEC3", {}),
        (colors, 5123, "VEC4", {"normalized": True}),
        (mesh.triangles.astype("<u4").reshape(-1), 5125, "SCALAR", {}),
    )
    views, accessors, body = [], [], b""
    for index, (array, component, kind, more) in enumerate(arrays):
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": array.nbytes, "target": 34963 if index == 3 else 34962})
        accessors.append({"bufferView": index, "componentType": component, "count": len(array), "type": kind, **more})
        body += array.tobytes()
    material = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    surface = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
    tree = {
        "asset": {"version": "2.0", "generator": "dreamerxl", **({"extras": {"dreamerxl": about}} if about else {})},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [surface]}],
        "materials": [material],
        "buffers": [{"byteLength": len(body)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    head = json.dumps(tree).encode()
    head += b" " * (-len(head) % 4)  # every length here is a multiple of four, the body's by its types
    chunks = struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
