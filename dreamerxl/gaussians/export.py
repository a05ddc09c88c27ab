"""A scene as a .ply that other splat viewers open: the layout of the original 3D Gaussian splatting code."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from dreamerxl.gaussians.scene import C0, FrozenSplats

COLUMNS = (
    *("x", "y", "z", "nx", "ny", "nz"),  # normals are always 0; some readers insist on them
    *("f_dc_0", "f_dc_1", "f_dc_2"),  # spherical harmonics of degree 0
    "opacity",  # logit
    *("scale_0", "scale_1", "scale_2"),  # log
    *("rot_0", "rot_1", "rot_2", "rot_3"),  # wxyz
)


def write_ply(path: str | Path, splats: FrozenSplats) -> None:
    """Writes binary little-endian float32 rows. Atomic: a reader sees the old file or the whole new one."""
    limit = 1e-6  # the logit of exactly 0 or 1 is infinite, as is the log of a scale of 0
    opacities = np.clip(splats.opacities.astype(np.float64), limit, 1 - limit)
    rows = np.concatenate(
        [
            splats.means,
            np.zeros_like(splats.means),
            (splats.rgbs - 0.5) / C0,
            np.log(opacities / (1 - opacities))[:, None],
            np.log(np.maximum(splats.scales, 1e-8)),
            splats.quats,
        ],
        axis=-1,
    ).astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    header += [f"property float {name}" for name in COLUMNS] + ["end_header", ""]
    path = Path(path)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write("\n".join(header).encode("ascii") + rows.tobytes())
        os.chmod(partial, 0o644)  # mkstemp's files are private
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
