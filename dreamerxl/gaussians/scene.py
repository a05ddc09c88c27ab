"""Parameters of a scene of Gaussians and what they mean.

N Gaussians are a plain dict of leaf parameters under gsplat's names, so that gsplat's strategies and exporters
take them as they are:

    means      [N, 3]     centres, world units; z up, the object's front towards +x
    quats      [N, 4]     rotations (w, x, y, z), any length but zero
    scales     [N, 3]     log of the standard deviations along the rotated axes
    opacities  [N]        logit of the peak opacity
    sh0        [N, 1, 3]  colour, degree 0: rgb = 1/2 + C0 * sh0, the same from every side

``activate`` maps them to values with gradients (`Splats`); ``freeze`` to detached float32 arrays (`FrozenSplats`),
which other threads, the viewer and the exporters may keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

Params: TypeAlias = dict[str, Parameter]

C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))


@dataclass(frozen=True)
class Splats:
    """What a rasterizer needs: tensors on one device, part of the autograd graph."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4] wxyz; the rasterizer normalises
    scales: Tensor  # [N, 3] standard deviations, > 0
    opacities: Tensor  # [N] in 0..1
    colors: Tensor  # [N, 3] rgb

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True)
class FrozenSplats:
    """A scene at one moment: read-only float32 arrays that share nothing with the parameters."""

    means: np.ndarray  # [N, 3]
    quats: np.ndarray  # [N, 4] wxyz, unit length
    scales: np.ndarray  # [N, 3] standard deviations, > 0
    opacities: np.ndarray  # [N] in 0..1
    rgbs: np.ndarray  # [N, 3] in 0..1

    def __len__(self) -> int:
        return len(self.means)


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """Coefficient of the constant spherical harmonic for a colour; any shape."""
    return (rgb - 0.5) / C0


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """Colour of the constant spherical harmonic; any shape. Inverse of ``rgb_to_sh0``."""
    return 0.5 + C0 * sh0


def make_params(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, rgbs: Tensor) -> Params:
    """Parameters from activated values (shapes as in `Splats`), on the device of ``means``."""
    limit = 1e-6  # a logit of exactly 0 or 1 is infinite
    values = {
        "means": means,
        "quats": quats,
        "scales": scales.log(),
        "opacities": opacities.clamp(limit, 1 - limit).logit(),
        "sh0": rgb_to_sh0(rgbs)[:, None, :],
    }
    return {name: Parameter(value.detach().float().clone().contiguous()) for name, value in values.items()}


def activate(params: Params) -> Splats:
    """Values of the parameters, with gradients. Colours are not clamped; see ``clamp_colors_``."""
    return Splats(
        means=params["means"],
        quats=params["quats"],
        scales=params["scales"].exp(),
        opacities=params["opacities"].sigmoid(),
        colors=sh0_to_rgb(params["sh0"][:, 0, :]),
    )


@torch.no_grad()
def clamp_colors_(params: Params) -> None:
    """Project the colours back into 0..1, in place; for use after an optimiser step."""
    params["sh0"].clamp_(-0.5 / C0, 0.5 / C0)


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] (wxyz, any length but zero)."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """Covariance matrices R S S^T R^T [N, 3, 3] of quats [N, 4] and standard deviations [N, 3]."""
    half = rotations(quats) * scales[:, None, :]
    return half @ half.transpose(-1, -2)


@torch.no_grad()
def freeze(params: Params) -> FrozenSplats:
    """A detached copy of the scene, colours clamped to 0..1 and quaternions of unit length."""
    splats = activate(params)
    return FrozenSplats(
        means=_array(splats.means),
        quats=_array(torch.nn.functional.normalize(splats.quats, dim=-1)),
        scales=_array(splats.scales),
        opacities=_array(splats.opacities),
        rgbs=_array(splats.colors.clamp(0, 1)),
    )


def thaw(frozen: FrozenSplats, device: torch.device | str = "cpu") -> Splats:
    """Tensors of a frozen scene, without gradients; for rendering it."""
    arrays = (frozen.means, frozen.quats, frozen.scales, frozen.opacities, frozen.rgbs)
    return Splats(*(torch.tensor(array, device=device) for array in arrays))


def _array(values: Tensor) -> np.ndarray:
    array = values.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
    array.flags.writeable = False
    return array
