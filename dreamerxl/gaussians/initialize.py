"""Where the Gaussians of a run start: random points in a simple shape, points made from a text, or a file's scene.

A file holds points or Gaussians (.ply, .splat), or a mesh (.glb, .obj) whose surface is covered with points. Points and
meshes are moved and scaled into the ball of the run's radius; Gaussians are taken as they are unless asked otherwise.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamerxl.config import Initialization
from dreamerxl.errors import SceneFileError
from dreamerxl.gaussians.glb import read_glb
from dreamerxl.gaussians.neighbours import mean_neighbour_distance
from dreamerxl.gaussians.obj import read_obj
from dreamerxl.gaussians.ply import Points, read_ply
from dreamerxl.gaussians.scene import FrozenSplats, Params, make_params
from dreamerxl.gaussians.splat import read_splat
from dreamerxl.gaussians.surface import Refused, sample

COLOR_STD = 0.03  # random colours are nearly grey, so that guidance decides
MESHES = {".glb": read_glb, ".obj": read_obj}
SCENES = {".ply": read_ply, ".splat": read_splat}
UPRIGHT = {  # rows: our x (the object's front), y (its left) and z (up) in the axes of the file
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "y": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),  # glTF: the front is +z, the left +x
    "-y": ((0, 0, -1), (1, 0, 0), (0, -1, 0)),  # as cameras count: y down, z away from the viewer
}


def initialize(
    settings: Initialization,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    cloud: Points | None = None,
) -> Params:
    """Parameters of the first scene. Random draws come from ``generator`` (a CPU generator) alone.

    ``cloud``: what was made from the text, for the shape 'text', which is a ball without it. A scene with more than
    ``settings.count`` points or Gaussians is thinned at random.
    """
    scene = cloud if settings.shape == "text" else None
    if settings.shape == "file":
        scene = read_scene(settings.file, settings.count, generator)
    if scene is None:
        shape = "ball" if settings.shape == "text" else settings.shape
        means, rgbs = _shape(shape, settings.count, settings.radius, generator), None
    else:
        keep = _thin(len(scene), settings.count, generator)
        turn = upright(settings)
        if isinstance(scene, FrozenSplats):
            return _gaussians(settings, scene, keep, turn, generator, device)
        means = _fit(torch.from_numpy(scene.means)[keep].double() @ turn.T, settings.radius)[0].float()
        rgbs = None if scene.rgbs is None or not settings.keep_colors else torch.from_numpy(scene.rgbs)[keep]
    count = len(means)
    if rgbs is None:
        rgbs = _grey(count, generator)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = _scales(means, settings)[:, None].expand(count, 3)
    opacities = torch.full((count,), settings.opacity)
    return make_params(*(t.to(device) for t in (means, quats, scales, opacities, rgbs)))


def read_scene(path: str | Path, count: int, generator: torch.Generator) -> Points | FrozenSplats:
    """Points or Gaussians of a file; a mesh gives ``count`` points of its surface. Raises SceneFileError with a sentence."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SCENES:
        return SCENES[suffix](path)
    if suffix not in MESHES:
        kinds = ", ".join((*SCENES, *MESHES))
        raise SceneFileError(f"The scene file {path.name} is of a kind that is not read; accepted: {kinds}.")
    try:
        return sample(MESHES[suffix](path), count, generator)
    except Refused as reason:
        raise SceneFileError(f"The scene file {path.name} {reason}.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise SceneFileError(f"The scene file {path.name} cannot be read: {error}.") from None


def upright(settings: Initialization) -> Tensor:
    """The rotation [3, 3], float64, that turns a scene's axes into ours: z up, the front towards +x."""
    up = settings.up
    if up == "auto":
        up = "y" if settings.shape == "file" and Path(settings.file).suffix.lower() in MESHES else "z"
    angle = math.radians(settings.turn_deg)
    turn = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    return torch.tensor(turn, dtype=torch.float64) @ torch.tensor(UPRIGHT[up], dtype=torch.float64)


def _gaussians(
    settings: Initialization,
    scene: FrozenSplats,
    keep: Tensor,
    turn: Tensor,
    generator: torch.Generator,
    device: torch.device | str,
) -> Params:
    """Gaussians of a file, turned and, where asked, fitted into the ball."""
    means, quats, scales, opacities, rgbs = (
        torch.from_numpy(np.array(array))[keep] for array in (scene.means, scene.quats, scene.scales, scene.opacities, scene.rgbs)
    )
    if not torch.equal(turn, torch.eye(3, dtype=torch.float64)):
        means, quats = (means.double() @ turn.T).float(), _product(_quaternion(turn), quats.double()).float()
    if settings.fit:
        fitted, factor = _fit(means.double(), settings.radius)
        means, scales = fitted.float(), scales * factor
    if not settings.keep_colors:
        rgbs = _grey(len(means), generator)
    return make_params(*(t.to(device) for t in (means, quats, scales, opacities, rgbs)))


def _grey(count: int, generator: torch.Generator) -> Tensor:
    return (0.5 + COLOR_STD * torch.randn(count, 3, generator=generator)).clamp(0, 1)


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


def _fit(points: Tensor, radius: float) -> tuple[Tensor, float]:
    """Points (float64, as files may hold map coordinates) moved and scaled so that their bounding box is centred and the
    farthest lies on the sphere of ``radius``; and the factor."""
    points = points - (points.amin(0) + points.amax(0)) / 2
    factor = radius / points.norm(dim=-1).max().clamp(min=1e-30).item()
    return points * factor, factor


def _quaternion(rotation: Tensor) -> Tensor:
    """The unit quaternion [4] (wxyz) of a rotation matrix [3, 3]: the eigenvector of Bar-Itzhack's symmetric matrix."""
    r = rotation
    k = torch.tensor(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ],
        dtype=torch.float64,
    )
    return torch.linalg.eigh(k).eigenvectors[:, -1]


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Quaternion product p q (wxyz) of p [4] and q [N, 4]: first q's rotation, then p's."""
    a, b, c, d = p
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        (
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ),
        -1,
    )
