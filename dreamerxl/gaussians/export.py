"""A scene in the formats that other programs open, chosen by the file's suffix.

.ply    the layout of 3D Gaussian splatting, float32, training frame (z up)
.splat  32 bytes a Gaussian, training frame
.spz    Niantic's compact format, about a tenth of the .ply, y up
.glb    a triangle mesh with vertex colours, y up
"""

from __future__ import annotations

from pathlib import Path

from dreamerxl.gaussians.ply import write_ply
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.gaussians.splat import write_splat
from dreamerxl.gaussians.spz import write_spz

FORMATS = (".ply", ".splat", ".spz", ".glb")


def export(path: Path, splats: FrozenSplats, about: str = "") -> None:
    """Write a scene; ``about``, what it comes from (ASCII without white space), travels in a .ply and a .glb. Atomic.

    Raises SceneFileError for a .glb of a scene without a surface, ValueError for another suffix.
    """
    if path.suffix == ".ply":
        write_ply(path, splats, about)
    elif path.suffix == ".splat":
        write_splat(path, splats)
    elif path.suffix == ".spz":
        write_spz(path, splats)
    elif path.suffix == ".glb":
        from dreamerxl.gaussians.mesh import write_glb  # SciPy and scikit-image take a second to import

        write_glb(path, splats, about)
    else:
        raise ValueError(f"{path.name} has no suffix of {', '.join(FORMATS)}")
