"""One function that draws Gaussians: gsplat on a CUDA card, ``rasterize_cpu`` elsewhere, one meaning.

Cameras are OpenCV's (x right, y down, z forward); pixel (row, column) has its centre at (column + 1/2, row + 1/2).
Both back ends follow gsplat.rasterization(render_mode="RGB+ED", packed=False).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from dreamerxl.errors import DeviceError
from dreamerxl.gaussians import rasterize_cpu
from dreamerxl.gaussians.scene import Splats


@dataclass(frozen=True)
class Render:
    """C pictures of one scene, with gradients."""

    rgb: Tensor  # [C, H, W, 3]
    depth: Tensor  # [C, H, W] expected depth along the camera's axis; 0 where nothing is seen
    alpha: Tensor  # [C, H, W] in 0..1
    info: dict[str, Any]  # gsplat's keys; "means2d" [C, N, 2] in pixels is part of the graph, "radii" [C, N, 2]


def rasterize(splats: Splats, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None = None) -> Render:
    """Colour, expected depth and alpha of N Gaussians from C cameras by 3D Gaussian splatting (Kerbl et al., 2023).

    viewmats [C, 4, 4] world to camera, Ks [C, 3, 3] in pixels, background [C, 3] or None for black; float32, on the
    device of the splats. Differentiable with respect to every tensor of ``splats`` and to ``background``.
    """
    _check(splats, viewmats, Ks, width, height, background)
    if splats.means.device.type == "cuda":
        rgbd, alpha, info = _gsplat()(
            splats.means,
            splats.quats,
            splats.scales,
            splats.opacities,
            splats.colors,
            viewmats,
            Ks,
            width,
            height,
            packed=False,
            backgrounds=background,
            render_mode="RGB+ED",
        )
        return Render(rgb=rgbd[..., :3], depth=rgbd[..., 3], alpha=alpha[..., 0], info=info)
    if background is None:
        background = splats.means.new_zeros(len(viewmats), 3)
    rgb, depth, alpha, info = rasterize_cpu.rasterize(
        splats.means, splats.quats, splats.scales, splats.opacities, splats.colors, viewmats, Ks, width, height, background
    )
    return Render(rgb=rgb, depth=depth, alpha=alpha, info=info)


def _check(splats: Splats, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None) -> None:
    count, cameras = len(splats.means), len(viewmats)
    wanted = {
        "means": (splats.means, (count, 3)),
        "quats": (splats.quats, (count, 4)),
        "scales": (splats.scales, (count, 3)),
        "opacities": (splats.opacities, (count,)),
        "colors": (splats.colors, (count, 3)),
        "viewmats": (viewmats, (cameras, 4, 4)),
        "Ks": (Ks, (cameras, 3, 3)),
    }
    if background is not None:
        wanted["background"] = (background, (cameras, 3))
    device = splats.means.device
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}; {list(shape)} is accepted")
        if tensor.dtype != torch.float32 or tensor.device != device:
            raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}; torch.float32 on {device} is accepted")
    if width < 1 or height < 1 or cameras < 1:
        raise ValueError(f"{cameras} cameras of {width}x{height} pixels; at least one of each is accepted")


@contextlib.contextmanager
def _nobody_else_builds() -> Iterator[None]:
    """While gsplat is imported for the first time. Processes that start together, as those of a sweep do, would each remove
    what another is building."""
    if "gsplat.cuda._backend" in sys.modules:
        yield
        return
    from torch.utils.cpp_extension import get_default_build_root  # a compiler's tools come with it

    folder = Path(get_default_build_root())
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is built
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(folder / "gsplat.lock"))
        yield


def _gsplat() -> Any:
    """gsplat's rasterization, imported (and on its first use on a machine, compiled) when first needed."""
    try:
        with _nobody_else_builds():
            from gsplat import rasterization
            from gsplat.cuda import _backend
    except Exception as error:  # a compiler that fails raises whatever it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DeviceError(f"gsplat's CUDA kernels cannot be built: {reason}.") from error
    if _backend._C is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise DeviceError(
            "gsplat finds no CUDA toolkit to build its kernels with; install one that matches PyTorch "
            "(nvcc on the PATH), or set device to cpu."
        )
    return rasterization
