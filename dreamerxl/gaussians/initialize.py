"""Where the Gaussians of a run start: random points in a simple shape, or the points or Gaussians of a file."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamerxl.config import Initialization
from dreamerxl.gaussians.neighbours import mean_neighbour_distance
from dreamerxl.gaussians.ply import Points, read_ply
from dreamerxl.gaussians.scene import Params, make_params

__all__ = ["initialize", "read_ply"]

COLOR_STD = 0.03  # random colours are nearly grey, so that guidance decides


def initialize(settings: Initialization, generator: torch.Generator, device: torch.device | str = "cpu") -> Params:
    """Parameters of the first scene. Random draws come from ``generator`` (a CPU generator) alone.

    Points of a file are centred and scaled into the ball of ``settings.radius``; Gaussians of a file are taken as they
    are. A file with more than ``settings.count`` is thinned at random.
    """
    if settings.shape == "file":
        scene = read_ply(settings.file)
        keep = _thin(len(scene), settings.count, generator)
        if not isinstance(scene, Points):
            arrays = (scene.means, scene.quats, scene.scales, scene.opacities, scene.rgbs)
            return make_params(*(torch.from_numpy(np.array(a))[keep].to(device) for a in arrays))
        means = _fit(torch.from_numpy(scene.means)[keep], settings.radius)
        rgbs = None if scene.rgbs is None else torch.from_numpy(scene.rgbs)[keep]
    else:
        means, rgbs = _shape(settings.shape, settings.count, settings.radius, generator), None
    count = len(means)
    if rgbs is None:
        rgbs = (0.5 + COLOR_STD * torch.randn(count, 3, generator=generator)).clamp(0, 1)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = _scales(means, settings)[:, None].expand(count, 3)
    opacities = torch.full((count,), settings.opacity)
    return make_params(*(t.to(device) for t in (means, quats, scales, opacities, rgbs)))


def _shape(shape: str, count: int, radius: float, generator: torch.Generator) -> Tensor:
    """Points [count, 3], uniform in a ball, on a sphere or in a cube."""
    if shape == "box":
        return radius * (2 * torch.rand(count, 3, generator=generator) - 1)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    if shape == "ball":
        points = points * torch.rand(count, 1, generator=generator) ** (1 / 3)
    return radius * points


def _scales(means: Tensor, settings: Initialization) -> Tensor:
    """Standard deviation [N] of each Gaussian: as set, or the mean distance to its nearest neighbours."""
    if settings.scale is not None:
        return torch.full((len(means),), settings.scale)
    distances = torch.from_numpy(mean_neighbour_distance(means.numpy()))
    # Points of a file may coincide, stand alone or lie far off.
    return distances.clamp(1e-3 * settings.radius, 0.2 * settings.radius)


def _thin(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    if count <= wanted:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


def _fit(points: Tensor, radius: float) -> Tensor:
    """Points moved and scaled so that their bounding box is centred and the farthest lies on the sphere of ``radius``."""
    points = points.double()  # a file may hold map coordinates
    points = points - (points.amin(0) + points.amax(0)) / 2
    return (points * (radius / points.norm(dim=-1).max().clamp(min=1e-30))).float()
