"""Sphere tracing of the procedural objects: colour, depth and alpha, anti-aliased by supersampling.

Rays start where they could first meet the unit ball and march by the distance bound; shading is diffuse light from
above plus a headlight, so that shape shows from every side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerxl.cameras import Cameras
from dreamerxl.gaussians.depth import normalized_disparity
from dreamerxl.miniature.objects import Part
from dreamerxl.miniature.shapes import Point, length

STEPS = 40
REACH = 1.35  # marching starts and ends this far from the origin
HIT = 0.012  # a ray closer than this to the surface has met it
LIGHT = (0.30, 0.20, 0.93)


def distance(parts: Sequence[Part], p: Point) -> Tensor:
    """Distance [B, M] to the nearest part."""
    return functools.reduce(torch.minimum, (part.distance(p) for part in parts))


def make_tracer(parts: Sequence[Part], compiled: bool) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A function (origins [B, 3], directions [B, M, 3], radius [B]) -> (color [B, M, 3], distance [B, M], hit [B, M])."""

    def march(origin: Point, ray: Point, travelled: Tensor) -> Tensor:
        p = (origin[0] + ray[0] * travelled, origin[1] + ray[1] * travelled, origin[2] + ray[2] * travelled)
        return travelled + distance(parts, p).clamp(-0.2, 0.4) * 0.95

    def look(origin: Point, ray: Point, travelled: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = (origin[i] + ray[i] * travelled for i in range(3))
        nearest = torch.full_like(x, 1e9)
        rgb = [torch.zeros_like(x) for _ in range(3)]
        for part in parts:
            d = part.distance((x, y, z))
            closer = d < nearest
            nearest = torch.where(closer, d, nearest)
            rgb = [torch.where(closer, part.color[:, i, None], rgb[i]) for i in range(3)]
        e = 2e-3  # central differences
        nx = distance(parts, (x + e, y, z)) - distance(parts, (x - e, y, z))
        ny = distance(parts, (x, y + e, z)) - distance(parts, (x, y - e, z))
        nz = distance(parts, (x, y, z + e)) - distance(parts, (x, y, z - e))
        size = length(nx, ny, nz)
        scale = sum(v * v for v in LIGHT) ** 0.5 * size
        lambert = ((nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2]) / scale).clamp_min(0)
        headlight = (-(nx * ray[0] + ny * ray[1] + nz * ray[2]) / size).clamp_min(0)
        light = 0.38 + 0.38 * lambert + 0.30 * headlight
        return torch.stack([(c * light).clamp(0, 1) for c in rgb], -1), nearest

    if compiled:
        march, look = torch.compile(march), torch.compile(look)

    def trace(origins: Tensor, directions: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        origin = (origins[:, :1], origins[:, 1:2], origins[:, 2:])
        ray = (directions[..., 0].contiguous(), directions[..., 1].contiguous(), directions[..., 2].contiguous())
        travelled = (radius[:, None] - REACH).expand_as(ray[0]).contiguous()
        for _ in range(STEPS):
            travelled = march(origin, ray, travelled)
        color, nearest = look(origin, ray, travelled)
        return color, travelled, (nearest < HIT) & (travelled < radius[:, None] + REACH)

    return trace


@torch.no_grad()
def render(
    parts: Sequence[Part],
    cameras: Cameras,
    background: Tensor,  # [B, 3]
    supersample: int = 2,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] and depth pictures [B, 1, H, W] (normalised disparity, 1 near, 0 background), both in 0..1."""
    batch, h, w = len(cameras), cameras.height * supersample, cameras.width * supersample
    device = cameras.viewmats.device
    v, u = torch.meshgrid(torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5, indexing="ij")
    k = cameras.Ks * supersample  # pixels of the finer grid; only focal lengths and centre are read
    x = (u.reshape(1, -1) - k[:, 0, 2, None]) / k[:, 0, 0, None]
    y = (v.reshape(1, -1) - k[:, 1, 2, None]) / k[:, 1, 1, None]
    rotation = cameras.viewmats[:, :3, :3]
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ rotation  # camera to world: R^T, rows times R
    norm = rays.norm(dim=-1, keepdim=True)
    origins = -(cameras.viewmats[:, :3, 3][:, None] @ rotation)[:, 0]
    color, travelled, hit = make_tracer(parts, compiled)(origins, rays / norm, cameras.radius)
    image = torch.where(hit[..., None], color, background[:, None])
    depth = torch.where(hit, travelled / norm[..., 0], torch.zeros_like(travelled)).view(batch, h, w)
    disparity = normalized_disparity(depth, hit.view(batch, h, w).float())[:, None]
    image = image.view(batch, h, w, 3).permute(0, 3, 1, 2)
    return F.avg_pool2d(image, supersample), F.avg_pool2d(disparity, supersample)
