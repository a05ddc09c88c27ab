"""3D Gaussian splatting without tiles, sorting tricks or hand-written gradients: every pixel against every Gaussian.

Plain torch in float64; autograd gives the gradients. Written from the papers (Zwicker 2001, Kerbl 2023) and gsplat's
documented conventions, sharing nothing with the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Picture:
    rgb: Tensor  # [C, H, W, 3]
    depth: Tensor  # [C, H, W]
    alpha: Tensor  # [C, H, W]
    means2d: list[Tensor]  # C times [N, 2]; keep their gradients
    radii: Tensor  # [C, N, 2]
    doubtful: Tensor  # [C, H, W] where rounding may decide whether a Gaussian is drawn


def quaternion_matrix(quats: Tensor) -> Tensor:
    """Rotation by q v q*, taken column by column from the images of the unit vectors."""
    q = quats / quats.norm(dim=-1, keepdim=True)
    scalar, vector = q[:, :1], q[:, 1:]
    columns = []
    for unit in torch.eye(3, dtype=quats.dtype):
        unit = unit.expand_as(vector)
        twice = 2 * torch.linalg.cross(vector, unit)
        columns.append(unit + scalar * twice + torch.linalg.cross(vector, twice))
    return torch.stack(columns, -1)


def draw(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
) -> Picture:
    rows = quaternion_matrix(quats) @ torch.diag_embed(scales)
    world = rows @ rows.mT
    pixel_y, pixel_x = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5, torch.arange(width, dtype=means.dtype) + 0.5, indexing="ij"
    )
    pixels = torch.stack([pixel_x.flatten(), pixel_y.flatten()], -1)
    pictures = []
    for view, K in zip(viewmats, Ks, strict=True):
        point = means @ view[:3, :3].T + view[:3, 3]
        z = point[:, 2]
        focal, centre, size = K.diagonal()[:2], K[:2, 2], torch.tensor([width, height], dtype=means.dtype)
        margin = 0.15 * size / focal
        slope = (point[:, :2] / z[:, None]).clamp(-centre / focal - margin, (size - centre) / focal + margin)
        jacobian = means.new_zeros(len(means), 2, 3)
        jacobian[:, 0, 0], jacobian[:, 1, 1] = focal[0] / z, focal[1] / z
        jacobian[:, :, 2] = -focal * slope / z[:, None]
        turned = jacobian @ view[:3, :3]
        covariance = turned @ world @ turned.mT + 0.3 * torch.eye(2, dtype=means.dtype)
        means2d = focal * point[:, :2] / z[:, None] + centre
        if means2d.requires_grad:
            means2d.retain_grad()

        seen = (z >= 0.01) & (opacities >= 1 / 255)
        order = torch.argsort(z)
        order = order[seen[order]]
        offset = means2d[order] - pixels[:, None]
        exponent = -0.5 * torch.einsum("pni,nij,pnj->pn", offset, torch.linalg.inv(covariance[order]), offset)
        peak = opacities[order] * exponent.exp()
        alpha = peak.clamp(max=0.999)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        with torch.no_grad():  # a pixel closes for good where the next transmittance would fall to 1e-4
            remaining = torch.cumprod(1 - alpha, -1)
            is_open = remaining > 1e-4
            doubt = ((255 * peak - 1).abs() < 1e-4) | ((peak / 0.999 - 1).abs() < 1e-5) | ((remaining / 1e-4 - 1).abs() < 1e-2)
        alpha = torch.where(is_open, alpha, 0.0)
        after = torch.cumprod(1 - alpha, -1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], -1)
        weights = alpha * before
        total = weights.sum(-1)
        rgb = weights @ colors[order]
        if background is not None:
            rgb = rgb + (1 - total)[:, None] * background[len(pictures)]
        depth = (weights @ z[order]) / total.clamp(min=1e-10)
        with torch.no_grad():
            reach = (2 * (255 * opacities).clamp(min=1).log()).sqrt().clamp(max=3.33)
            radii = (reach[:, None] * covariance.diagonal(dim1=-2, dim2=-1).sqrt()).ceil()
            inside = ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
            radii = torch.where((seen & inside & (radii > 0).any(-1))[:, None], radii, 0.0)
        shape = (height, width)
        doubtful = doubt.any(-1) if len(order) else torch.zeros(len(pixels), dtype=torch.bool)
        pictures.append((rgb.view(*shape, 3), depth.view(shape), total.view(shape), means2d, radii, doubtful.view(shape)))
    rgb, depth, alpha, means2d, radii, doubtful = zip(*pictures, strict=True)
    return Picture(
        torch.stack(rgb), torch.stack(depth), torch.stack(alpha), list(means2d), torch.stack(radii), torch.stack(doubtful)
    )


def random_scene(count: int, seed: int, opacity: tuple[float, float] = (0.0, 1.0), thinness: float = 1.0) -> list[Tensor]:
    """means, quats, scales, opacities, colors of Gaussians in the unit ball; float64 with float32's precision."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    means = directions * uniform(count, 1) ** (1 / 3)
    quats = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    scales = 0.03 + 0.12 * uniform(count, 3)
    scales[:, 0] /= thinness
    opacities = opacity[0] + (opacity[1] - opacity[0]) * uniform(count)
    return [t.float().double() for t in (means, quats, scales, opacities, uniform(count, 3))]


def orbit(count: int, width: int, height: int, distance: float = 3.0, fov_deg: float = 40.0) -> tuple[Tensor, Tensor]:
    """viewmats [C, 4, 4] and Ks [C, 3, 3] of OpenCV cameras around the origin, no two alike; off-centre, not square."""
    viewmats, Ks = [], []
    for n in range(count):
        azimuth, elevation = 0.4 + 2 * math.pi * n / count, 0.3 - 0.4 * n
        eye = distance * torch.tensor(
            [math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation)]
        )
        forward = -eye / eye.norm()
        right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
        right = right / right.norm()
        view = torch.eye(4, dtype=torch.float64)
        view[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
        view[:3, 3] = -view[:3, :3] @ eye.double()
        focal = 0.5 * height / math.tan(math.radians(fov_deg) / 2)
        viewmats.append(view)
        Ks.append(torch.tensor([[focal, 0, width / 2 + n], [0, 1.1 * focal, height / 2 - n], [0, 0, 1]], dtype=torch.float64))
    return torch.stack(viewmats).float().double(), torch.stack(Ks).float().double()
