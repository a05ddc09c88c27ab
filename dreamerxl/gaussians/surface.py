"""Textured triangles, and coloured points drawn from them evenly by area.

    corners    [T, 3, 3]   of T triangles, any unit
    tints      [T, 3, 3]   colour at each corner, a factor in 0..1
    uv         [T, 3, 2]   place of each corner in the texture: (0, 0) is its top left, (1, 1) its bottom right; it repeats
    texture    [H, W, 3]   uint8, sRGB
Colours that are multiplied are multiplied where their file format says: glTF's in linear light, .obj's as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamerxl.gaussians.ply import Points

MAX_TRIANGLES = 4_000_000
MAX_TEXTURE_PIXELS = 70_000_000


class Refused(Exception):
    """Why a file is not taken; the predicate of a sentence about it."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles that share a material."""

    corners: np.ndarray  # [T, 3, 3] float64
    tints: np.ndarray  # [T, 3, 3] float64 in 0..1
    uv: np.ndarray | None = None  # [T, 3, 2] float64
    texture: np.ndarray | None = None  # [H, W, 3] uint8
    linear: bool = True  # whether tints are linear light

    def __len__(self) -> int:
        return len(self.corners)


def sample(surfaces: Sequence[Surface], count: int, generator: torch.Generator) -> Points:
    """``count`` points, uniform over the area of all surfaces, with their colours. Raises Refused where there is no area."""
    surfaces = [surface for surface in surfaces if len(surface)]
    if not surfaces:
        raise Refused("has no triangles; a mesh with faces is needed")
    if sum(map(len, surfaces)) > MAX_TRIANGLES:
        raise Refused(f"has {sum(map(len, surfaces)):,} triangles; at most {MAX_TRIANGLES:,} are accepted")
    corners = np.concatenate([surface.corners for surface in surfaces])
    if not np.isfinite(corners).all() or np.abs(corners).max() > 1e30:
        raise Refused("has vertices that are not finite numbers")
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1) / 2
    ends = areas.cumsum()
    if not ends[-1] > 0:
        raise Refused("has triangles without area; a surface is needed")
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64).numpy()
    chosen = np.searchsorted(ends, draws[:, 0] * ends[-1], side="right").clip(max=len(corners) - 1)
    root = np.sqrt(draws[:, 1])
    weights = np.stack([1 - root, root * (1 - draws[:, 2]), root * draws[:, 2]], -1)  # even over a triangle
    means = np.einsum("nk,nkx->nx", weights, corners[chosen])
    rgbs = np.empty((count, 3))
    first = 0
    for surface in surfaces:
        here = (chosen >= first) & (chosen < first + len(surface))
        rgbs[here] = _colors(surface, chosen[here] - first, weights[here])
        first += len(surface)
    return Points(means.astype(np.float32), rgbs.clip(0, 1).astype(np.float32))


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light 0..1 as sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0..1 as linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _colors(surface: Surface, triangles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sRGB colours [n, 3] at barycentric places [n, 3] of triangles [n]."""
    tints = np.einsum("nk,nkc->nc", weights, surface.tints[triangles])
    if surface.uv is None or surface.texture is None:
        return to_srgb(tints) if surface.linear else tints
    texels = _bilinear(surface.texture, np.einsum("nk,nkc->nc", weights, surface.uv[triangles]))
    return to_srgb(to_linear(texels) * tints) if surface.linear else texels * tints


def _bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours [n, 3] in 0..1 of a repeating texture at uv [n, 2], between the centres of its pixels."""
    height, width = texture.shape[:2]
    uv = np.nan_to_num(uv % 1.0)
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]

    def row(at: np.ndarray) -> np.ndarray:
        pixels = texture[at % height]
        between = np.arange(len(at))
        return pixels[between, left % width] * (1 - right_share) + pixels[between, (left + 1) % width] * right_share

    return (row(top) * (1 - low_share) + row(top + 1) * low_share) / 255
