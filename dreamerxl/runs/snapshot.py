"""Snapshots: what a running scene looks like at one iteration, detached from training and immutable.

Images are uint8 RGB [H, W, 3] with H, W at most ``SIDE_IMAGE``; every array is read-only, so any thread may hold one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.gaussians.depth import FARTHEST
from dreamerxl.gaussians.scene import FrozenSplats, freeze

SIDE_IMAGE = 512
NO_FRUSTUMS = np.zeros((0, 5, 3), np.float32)
PICTURES = ("render", "depth", "x0_hat", "gradient", "clipped")
METRICS = ("grad_norm", "clipped_norm", "clipped_share", "latent_norm", "count", "t", "s", "mu")

VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
INFERNO = "000004 210c4a 57106e 8a226a bc3754 e45a31 f98e09 f9cb35 fcffa4"


@dataclass(frozen=True)
class SideSnapshot:
    """One side of a run: its Gaussians and the images of the first view of the last batch."""

    label: str  # "ISM", or "TSM gamma 0.3" where two sides share a method
    splats: FrozenSplats
    render: np.ndarray  # what the method saw, over the background of that iteration
    depth: np.ndarray  # disparity, viridis: bright is near, white is background
    x0_hat: np.ndarray  # pseudo ground truth, decoded
    gradient: np.ndarray  # magnitude per pixel before clipping, inferno; one scale for every side and for `clipped`
    clipped: np.ndarray  # magnitude per pixel after clipping
    metrics: Mapping[str, float]

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """What the side computed, in the order of PICTURES."""
        return tuple(getattr(self, name) for name in PICTURES)


@dataclass(frozen=True)
class Snapshot:
    """Every side of a run after ``iteration`` iterations."""

    run_id: str
    iteration: int
    iterations: int
    its_per_s: float
    eta_s: float
    sides: tuple[SideSnapshot, ...]
    frustums: np.ndarray = field(default_factory=lambda: NO_FRUSTUMS)  # [B, 5, 3] of the last views; see dreamerxl.cameras


def labels(variants: Sequence[Variant]) -> tuple[str, ...]:
    """A short name for each side: its method, and what differs where two sides share one."""
    names = []
    for index, variant in enumerate(variants):
        rivals = [other for place, other in enumerate(variants) if other.method == variant.method and place != index]
        differing = [
            f"{item.name} {_plain(getattr(variant, item.name))}"
            for item in fields(variant)
            if any(getattr(variant, item.name) != getattr(other, item.name) for other in rivals)
        ]
        names.append(" ".join([variant.method.upper(), ", ".join(differing[:2])]).strip())
    return tuple(f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names))


def metrics(report: Any) -> list[dict[str, float]]:
    """The numbers of each side of a step's report: norms, share of clipped pixels, Gaussians, t, s, mu."""
    return [{name: float(getattr(side, name)) for name in METRICS} for side in report.sides]


def take_sides(
    sides: Sequence[Any], report: Any, names: Sequence[str], decode: Callable[[Tensor], Tensor]
) -> tuple[SideSnapshot, ...]:
    """Snapshots of a trainer's sides, with the images of the first view of its last report. Decodes one x_0 hat a side."""
    before = [_magnitude(side.gradient) for side in report.sides]
    after = [_magnitude(side.clipped) for side in report.sides]
    scale = max(max(np.quantile(magnitude, 0.995) for magnitude in before), 1e-30)
    taken = []
    for index, (side, seen, numbers) in enumerate(zip(sides, report.sides, metrics(report), strict=True)):
        taken.append(
            SideSnapshot(
                label=names[index],
                splats=freeze(side.params),
                render=_image(seen.render[:1].movedim(-1, 1)),
                depth=depth_image(_reduced(seen.disparity[:1, None])[0, 0]),
                x0_hat=_image(decode(seen.x0_hat[:1])),
                gradient=sealed(color_map(np.sqrt(before[index] / scale), INFERNO)),
                clipped=sealed(color_map(np.sqrt(after[index] / scale), INFERNO)),
                metrics=MappingProxyType(numbers),
            )
        )
    return tuple(taken)


def depth_image(disparity: np.ndarray) -> np.ndarray:
    """Disparity [H, W] (0 background, FARTHEST..1 object) in viridis on white, uint8 [H, W, 3]."""
    covered = np.clip(disparity / FARTHEST, 0, 1)[..., None]
    colors = color_map((disparity - FARTHEST) / (1 - FARTHEST), VIRIDIS)
    return sealed(np.round(covered * colors + (1 - covered) * 255).astype(np.uint8))


def _reduced(images: Tensor) -> np.ndarray:
    """Images [B, C, H, W] as float32, averaged down to at most SIDE_IMAGE on a side."""
    images = images.detach().float()
    height, width = images.shape[-2:]
    factor = min(1.0, SIDE_IMAGE / max(height, width))
    if factor < 1:
        images = F.interpolate(images, (round(height * factor), round(width * factor)), mode="area")
    return images.cpu().numpy()


def _image(images: Tensor) -> np.ndarray:
    """The first of images [B, 3, H, W] in 0..1 as uint8 [H, W, 3]."""
    return sealed(np.round(np.clip(np.nan_to_num(_reduced(images)[0]), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


def _magnitude(gradient: Tensor) -> np.ndarray:
    """Norm over the channels of the first gradient of [B, C, H, W], as [H, W]."""
    return np.nan_to_num(_reduced(gradient[:1].float().norm(dim=1, keepdim=True))[0, 0])


def color_map(values: np.ndarray, table: str) -> np.ndarray:
    """Colours [..., 3] uint8 of values [...] in 0..1, interpolated between the evenly spaced colours of a table."""
    anchors = np.array([[int(code[k : k + 2], 16) for k in (0, 2, 4)] for code in table.split()], np.float32)
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(anchors) - 1)
    channels = [np.interp(place, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, -1)).astype(np.uint8)


def sealed(array: np.ndarray) -> np.ndarray:
    """The same values, contiguous and read-only."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "off" if value is None else str(value)
