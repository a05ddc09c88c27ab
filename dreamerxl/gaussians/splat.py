"""Scenes as .splat, the plain format of web viewers: https://github.com/antimatter15/splat, 32 bytes a Gaussian.

    3 float32  position      3 float32  standard deviations      4 bytes  r, g, b, opacity      4 bytes  w, x, y, z * 128 + 128
The most visible Gaussians come first, so that a viewer that draws while it loads shows the object early.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamerxl.errors import SceneFileError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats

MAX_SPLATS = 5_000_000

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


def read_splat(path: str | Path) -> FrozenSplats:
    """A scene as it stands in a file. Raises SceneFileError with the file and the reason."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0 or size % ROW.itemsize:
            raise SceneFileError(
                f"The scene file {path.name} is no .splat or is cut short: its {size:,} bytes are no multiple of {ROW.itemsize}."
            )
        if size > MAX_SPLATS * ROW.itemsize:
            raise SceneFileError(
                f"The scene file {path.name} has {size // ROW.itemsize:,} Gaussians; at most {MAX_SPLATS:,} are accepted."
            )
        rows = np.fromfile(path, ROW)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise SceneFileError(f"The scene file {path.name} cannot be read: {error}.") from None
    colors = rows["color"].astype(np.float32) / 255
    quats = (rows["rotation"].astype(np.float32) - 128) / 128
    lengths = np.linalg.norm(quats, axis=-1, keepdims=True)
    good = np.isfinite(rows["position"]).all() and np.isfinite(rows["scale"]).all() and (rows["scale"] > 0).all()
    if not good or lengths.min() == 0:
        raise SceneFileError(
            f"The scene file {path.name} is not a .splat: some positions, sizes or rotations are not finite numbers, or are 0."
        )
    return FrozenSplats(rows["position"].copy(), quats / lengths, rows["scale"].copy(), colors[:, 3], colors[:, :3])
