"""What the view is sent: the splats of all sides as one buffer, and the lines of the training cameras.

The browser sorts and draws all splats together and tells the sides apart by their place in the buffer: one side after the
other, each padded with invisible splats to the same count. So what a visitor sees of which side is decided in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import viser.transforms as tf

from dreamerxl.gaussians.scene import FrozenSplats

MOST_SPLATS = 100_000  # of a side; 32 bytes a splat on the wire, once or twice a second, for every visitor
COUNT_STEP = 1024  # counts are padded to a multiple: the browser rebuilds its buffers whenever the count changes
CAMERA_DEPTH = 0.8  # how far the frustum of a training camera reaches, world units

Packed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # centers [N,3], covariances [N,3,3], rgbs [N,3], opacities [N,1]


def pack_sides(scenes: Sequence[FrozenSplats]) -> Packed:
    """The scenes of all sides one after the other, each with the same count."""
    kept = [visible_splats(scene) for scene in scenes]
    count = max(COUNT_STEP, *(math.ceil(len(indices) / COUNT_STEP) * COUNT_STEP for indices in kept))
    packed = [pack(scene, indices, count) for scene, indices in zip(scenes, kept, strict=True)]
    return tuple(np.concatenate(parts) for parts in zip(*packed, strict=True))  # type: ignore[return-value]


def visible_splats(scene: FrozenSplats) -> np.ndarray:
    """Indices of the splats that are shown: all that are finite, at most MOST_SPLATS of the most opaque."""
    parts = [np.asarray(part, np.float32) for part in (scene.means, scene.quats, scene.scales, scene.rgbs)]
    opacities = np.asarray(scene.opacities, np.float32)
    kept = np.flatnonzero(np.isfinite(opacities) & np.isfinite(np.concatenate(parts, 1)).all(1))
    if len(kept) > MOST_SPLATS:
        kept = np.sort(kept[np.argpartition(-opacities[kept], MOST_SPLATS)[:MOST_SPLATS]])
    return kept


def pack(scene: FrozenSplats, kept: np.ndarray, count: int) -> Packed:
    """The kept splats of a scene as Viser takes them, followed by invisible ones up to the count."""
    centers = np.zeros((count, 3), np.float32)
    covariances = np.tile(np.eye(3, dtype=np.float32) * 1e-4, (count, 1, 1))
    colors = np.zeros((count, 3), np.float32)
    alphas = np.zeros((count, 1), np.float32)
    used = slice(len(kept))
    centers[used] = scene.means[kept]
    covariances[used] = _covariances(scene.quats[kept], scene.scales[kept])
    colors[used] = scene.rgbs[kept].clip(0, 1)
    alphas[used, 0] = scene.opacities[kept].clip(0, 1)
    return centers, covariances, colors, alphas


def ready_ball(sides: int) -> Packed:
    """What is seen before there is anything to see: on each side faint grey points in a ball, as a run's Gaussians start."""
    generator = np.random.default_rng(7)
    count = 2 * COUNT_STEP
    directions = generator.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centers = directions * 0.62 * generator.random((count, 1)) ** (1 / 3)
    covariances = np.tile(np.eye(3) * 0.013**2, (count, 1, 1))
    grey = np.tile([[0.60, 0.62, 0.65]], (count, 1)) * generator.uniform(0.6, 1.0, (count, 1))
    parts = centers, covariances, grey, np.full((count, 1), 0.55)
    return tuple(np.concatenate([part.astype(np.float32)] * sides) for part in parts)  # type: ignore[return-value]


def camera_lines(frustums: np.ndarray) -> np.ndarray:
    """Line segments [8 C, 2, 3] of C training cameras, eight for each: from its centre to the corners of its image, and
    around the image. frustums [C, 5, 3] as `dreamerxl.cameras.frustums` gives them."""
    centers = frustums[:, :1]
    corners = centers + CAMERA_DEPTH * (frustums[:, 1:] - centers)
    spokes = np.stack([np.broadcast_to(centers, corners.shape), corners], 2)
    edges = np.stack([corners, np.roll(corners, -1, 1)], 2)
    return np.concatenate([spokes, edges], 1).reshape(-1, 2, 3).astype(np.float32)


def _covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """R S S^T R^T [N, 3, 3] of unit quats [N, 4] (wxyz) and standard deviations [N, 3]."""
    half = tf.SO3(quats).as_matrix() * np.clip(scales, 0, 10)[:, None, :]
    return (half @ np.swapaxes(half, 1, 2)).astype(np.float32)
