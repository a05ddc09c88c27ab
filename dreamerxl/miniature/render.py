"""Pictures and depth of scenes made of solids, anti-aliased by supersampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerxl.cameras import Cameras
from dreamerxl.gaussians.depth import normalized_disparity
from dreamerxl.miniature.solids import COLUMNS
from dreamerxl.miniature.tracer import trace_all


@dataclass(frozen=True)
class Scene:
    """Solids as a table [P, COLUMNS]; how dark the contact shadow is (0: none) and the height that it falls on."""

    table: np.ndarray
    shadow: float = 0.0
    ground: float = -1.0


@torch.no_grad()
def render(
    scenes: Sequence[Scene],
    cameras: Cameras,
    backgrounds: Tensor,  # [B, 3]
    supersample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, H] and depth pictures [B, 1, H, H] (normalised disparity, 1 near, 0 background), both in 0..1.

    One scene a camera; pictures are square, with the camera's centre in the middle. Runs where the cameras are.
    """
    device, batch, size = cameras.viewmats.device, len(scenes), cameras.height * supersample
    counts = np.array([len(scene.table) for scene in scenes], np.int32)
    table = np.zeros((batch, counts.max(), COLUMNS), np.float32)
    for row, scene in zip(table, scenes, strict=True):
        row[: len(scene.table)] = scene.table
    rotation = cameras.viewmats[:, :3, :3].float().contiguous()
    inputs = [
        torch.from_numpy(table),
        torch.from_numpy(counts),
        -(cameras.viewmats[:, :3, 3][:, None] @ rotation)[:, 0],
        rotation,
        cameras.Ks[:, 0, 0] * supersample,
        torch.tensor([scene.ground for scene in scenes], dtype=torch.float32),
        torch.tensor([scene.shadow for scene in scenes], dtype=torch.float32),
        backgrounds.float(),
    ]
    arrays = tuple(x.to(device).contiguous() for x in inputs)
    color = torch.empty(batch, size, size, 3, device=device)
    depth = torch.empty(batch, size, size, device=device)
    if device.type == "cuda":
        trace_all(arrays, size, color, depth, on_cuda=True)
    else:
        trace_all(tuple(x.numpy() for x in arrays), size, color.numpy(), depth.numpy(), on_cuda=False)
    disparity = normalized_disparity(depth, (depth > 0).float())[:, None]
    image = color.permute(0, 3, 1, 2)
    return F.avg_pool2d(image, supersample), F.avg_pool2d(disparity, supersample)
