"""Scenes as .splat, the plain format of web viewers: https://github.com/antimatter15/splat, 32 bytes a Gaussian.

    3 float32  position      3 float32  standard deviations      4 bytes  r, g, b, opacity      4 bytes  w, x, y, z * 128 + 128
The most visible Gaussians come first, so that a viewer that draws while it loads shows the object early.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats

ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])


def write_splat(path: str | Path, splats: FrozenSplats) -> None:
    """Write a scene in the training frame (z up). Atomic."""
    order = np.argsort(-splats.opacities * splats.scales.prod(1), kind="stable")
    rows = np.zeros(len(splats), ROW)
    rows["position"], rows["scale"] = splats.means[order], splats.scales[order]
    rows["color"] = np.round(np.concatenate([splats.rgbs, splats.opacities[:, None]], 1)[order].clip(0, 1) * 255)
    rows["rotation"] = np.clip(np.round(splats.quats[order] * 128 + 128), 0, 255)
    with replacing(Path(path)) as partial:
        partial.write_bytes(rows.tobytes())
