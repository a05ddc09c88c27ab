"""Cameras around the object: look-at, intrinsics, and the views of training and of turntables.

World: z up, the object at the origin inside the unit ball, its front towards +x. A camera at azimuth 0 stands on
+x, at azimuth +90 on +y (it sees the object's left side), at elevation +90 on +z. Cameras follow OpenCV: x right,
y down, z forward; a pixel's centre lies at half-integers, so the origin projects to (width / 2, height / 2).

    viewmats  [C, 4, 4]  world to camera, X_cam = R X_world + t
    Ks        [C, 3, 3]  pixels, square, principal point in the middle
    angles    degrees; fovy is the vertical field of view; elevation in -90..90
Tensors are float32; every draw is made on the CPU and costs a fixed number of values of its generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamerxl.config import Views
from dreamerxl.errors import SettingsError

# Draws are made for this many views whatever the batch (the most that views.batch accepts), so that a change of
# settings during a run leaves everything that is drawn afterwards as it was.
MAX_VIEWS = 64

RELEASED_STEP = 500  # iterations from one widening to the next in the released code
RELEASED_FACTORS = (1.5, 0.95, 0.75)  # of the azimuth range, the radii, the narrowest field of view

CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))  # of an image, x right and y down: clockwise from the top left


@dataclass(frozen=True, eq=False)
class Cameras:
    """C pinhole cameras that share an image size, and the angles that they were made from."""

    viewmats: Tensor  # [C, 4, 4]
    Ks: Tensor  # [C, 3, 3]
    width: int
    height: int
    azimuth_deg: Tensor  # [C]
    elevation_deg: Tensor  # [C]
    radius: Tensor  # [C]
    fovy_deg: Tensor  # [C]

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras with every tensor on the device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)})


def look_at(eye: Tensor, target: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """World-to-camera matrices [C, 4, 4] of cameras at eye [C, 3] that look at the target ([3] or [C, 3], default 0).

    ``up`` ([3] or [C, 3], default +z) points to the top of the image. Where it is parallel to the line of sight it
    says nothing; +x takes its place there (+y if the line of sight is along x).
    """
    eye64 = eye.double()
    target64 = torch.zeros_like(eye64) if target is None else target.to(eye64).expand_as(eye64)
    up64 = (eye64.new_tensor([0.0, 0.0, 1.0]) if up is None else up.to(eye64)).expand_as(eye64)
    sight = target64 - eye64
    distance = torch.linalg.vector_norm(sight, dim=-1, keepdim=True)
    if not bool((distance > 0).all()):
        raise SettingsError("A camera stands on the point that it looks at; its distance must be above 0.")
    forward = sight / distance
    along_x = forward[:, :1].abs() > 0.5
    spare = torch.where(along_x, eye64.new_tensor([0.0, 1.0, 0.0]), eye64.new_tensor([1.0, 0.0, 0.0]))
    right = torch.linalg.cross(forward, up64)
    # 1e-6 of the length of up: an angle of 6e-5 degrees, below which float32 inputs cannot tell a direction
    parallel = torch.linalg.vector_norm(right, dim=-1, keepdim=True) <= 1e-6 * torch.linalg.vector_norm(
        up64, dim=-1, keepdim=True
    )
    right = torch.where(parallel, torch.linalg.cross(forward, spare), right)
    right = right / torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    viewmats = torch.eye(4, dtype=torch.float64, device=eye.device).repeat(eye.shape[0], 1, 1)
    viewmats[:, :3, :3] = torch.stack((right, down, forward), dim=1)
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ eye64[..., None])[..., 0]
    return viewmats.float()


def intrinsics(fovy_deg: Tensor, width: int, height: int) -> Tensor:
    """Pinhole matrices [C, 3, 3] in pixels for vertical fields of view fovy_deg [C], square pixels."""
    focal = height / 2 / torch.tan(torch.deg2rad(fovy_deg.double()) / 2)
    Ks = torch.eye(3, dtype=torch.float64, device=fovy_deg.device).repeat(fovy_deg.shape[0], 1, 1)
    Ks[:, 0, 0] = Ks[:, 1, 1] = focal
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2, height / 2
    return Ks.float()


def cameras_at(
    azimuth_deg: Tensor | float,
    elevation_deg: Tensor | float,
    radius: Tensor | float,
    fovy_deg: Tensor | float,
    width: int,
    height: int,
) -> Cameras:
    """Cameras on spheres around the origin, looking at it; the four numbers are scalars or [C] and are broadcast.

    The image's top is the direction in which the elevation grows, which is world up seen from any camera and stays
    defined at the poles.
    """
    values = [torch.atleast_1d(torch.as_tensor(v, dtype=torch.float32)) for v in (azimuth_deg, elevation_deg, radius, fovy_deg)]
    azimuth, elevation, distance, fovy = (value.clone() for value in torch.broadcast_tensors(*values))
    for name, value, ok, accepted in (
        ("elevation_deg", elevation, elevation.abs() <= 90, "-90 to 90"),
        ("radius", distance, (distance > 0) & distance.isfinite(), "a finite number above 0"),
        ("fovy_deg", fovy, (fovy > 0) & (fovy < 180), "a number between 0 and 180"),
        ("azimuth_deg", azimuth, azimuth.isfinite(), "a finite number"),
    ):
        if not bool(ok.all()):
            raise SettingsError(f"A camera's {name} is {value[~ok][0].item():g}; {accepted} is accepted.")
    if width < 1 or height < 1:
        raise SettingsError(f"A camera's image is {width} x {height} pixels; at least 1 x 1 is accepted.")
    az, el = torch.deg2rad(azimuth.double()), torch.deg2rad(elevation.double())
    eye = distance.double()[:, None] * torch.stack((el.cos() * az.cos(), el.cos() * az.sin(), el.sin()), dim=-1)
    up = torch.stack((-el.sin() * az.cos(), -el.sin() * az.sin(), el.cos()), dim=-1)
    return Cameras(look_at(eye, up=up), intrinsics(fovy, width, height), width, height, azimuth, elevation, distance, fovy)


@dataclass(frozen=True)
class Ranges:
    """Where training cameras may stand in an iteration."""

    azimuth_deg: float  # to either side of the front
    elevation_deg: tuple[float, float]
    radius: tuple[float, float]
    fovy_deg: tuple[float, float]


def view_ranges(views: Views, iteration: int) -> Ranges:
    """The ranges of an iteration (counted from 0), on their way from the start's to the whole.

    linear: evenly over ``widen_iterations``; azimuth from ``widen_start`` of its range around the front, elevation
    around its middle, radius and fovy from their ``start_`` values.
    released: in steps, at each 500th iteration the azimuth range times 1.5, the radii times 0.95 and the narrowest
    fovy times 0.75, none beyond the whole (the released code's scale_up_cameras_iter, phi_, fovy_ and scale_up_factor).
    """
    low, high = views.elevation_min_deg, views.elevation_max_deg
    near = views.radius_min if views.start_radius_min is None else views.start_radius_min
    far = views.radius_max if views.start_radius_max is None else views.start_radius_max
    narrow = views.fovy_min_deg if views.start_fovy_min_deg is None else views.start_fovy_min_deg
    if views.widen_rule == "released":
        steps = min((iteration + 1) // RELEASED_STEP, 1000)  # its iterations count from 1
        wide, closer, narrower = (factor**steps for factor in RELEASED_FACTORS)
        return Ranges(
            views.azimuth_range_deg * min(views.widen_start * wide, 1.0),
            (low, high),
            (max(near * closer, views.radius_min), max(far * closer, views.radius_max)),
            (max(narrow * narrower, views.fovy_min_deg), views.fovy_max_deg),
        )
    done = min(1.0, iteration / views.widen_iterations) if views.widen_iterations else 1.0
    share = views.widen_start + (1 - views.widen_start) * done
    middle, half = (low + high) / 2, (high - low) / 2
    return Ranges(
        share * views.azimuth_range_deg,
        (middle - share * half, middle + share * half),
        (near + (views.radius_min - near) * done, far + (views.radius_max - far) * done),
        (narrow + (views.fovy_min_deg - narrow) * done, views.fovy_max_deg),
    )


def sample_cameras(views: Views, iteration: int, generator: torch.Generator) -> Cameras:
    """A batch of training views, square, drawn from the ranges of the iteration.

    Azimuths are stratified: the allowed range is cut into one bin a view, each view lies anywhere in its own bin,
    and all are shifted by one common offset (wrapping inside the range), so a batch sees several sides and every
    view alone is uniform. Elevation is uniform in degrees; radius and fovy are uniform. ``angle_gamma`` bends azimuth
    and elevation: u in -1..1 becomes sign(u) |u|^gamma, which above 1 prefers the middle.
    """
    count = views.batch
    u = torch.rand(1 + 4 * max(MAX_VIEWS, count), generator=generator, dtype=torch.float32)
    offset, jitter, elevation, radius, fovy = u[0], *u[1:].view(-1, 4)[:count].T
    place = (offset + (torch.arange(count) + jitter) / count) % 1
    ranges = view_ranges(views, iteration)
    low, high = ranges.elevation_deg
    return cameras_at(
        ranges.azimuth_deg * _bent(2 * place - 1, views.angle_gamma),
        (low + high) / 2 + (high - low) / 2 * _bent(2 * elevation - 1, views.angle_gamma),
        ranges.radius[0] + (ranges.radius[1] - ranges.radius[0]) * radius,
        ranges.fovy_deg[0] + (ranges.fovy_deg[1] - ranges.fovy_deg[0]) * fovy,
        views.resolution,
        views.resolution,
    )


def _bent(u: Tensor, gamma: float) -> Tensor:
    return u.sign() * u.abs() ** gamma


def orbit_cameras(count: int, elevation_deg: float, radius: float, fovy_deg: float, width: int, height: int) -> Cameras:
    """A turntable: count cameras at azimuths 0, 360/count, ... (degrees in 0..360), starting at the front."""
    return cameras_at(torch.arange(count) * (360 / count), elevation_deg, radius, fovy_deg, width, height)


def frustums(cameras: Cameras) -> Tensor:
    """For drawing cameras: each one's centre and the four corners of its image at distance 1, clockwise from the top left.
    [C, 5, 3] in the world."""
    tan_y = torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)
    tan_x = tan_y * cameras.width / cameras.height
    corners = torch.stack([torch.stack([x * tan_x, y * tan_y, torch.ones_like(tan_x)], -1) for x, y in CORNERS], 1)
    points = torch.cat([torch.zeros_like(corners[:, :1]), corners], 1)
    rotation, shift = cameras.viewmats[:, :3, :3], cameras.viewmats[:, None, :3, 3]
    return (points - shift) @ rotation  # R^T (x - t), for rows


def sample_background(views: Views, count: int, generator: torch.Generator) -> Tensor:
    """Background colours [count, 3] in 0..1, one a view: white, or with probability ``random_background`` a random
    colour or black (half of those each)."""
    u = torch.rand(max(MAX_VIEWS, count), 4, generator=generator, dtype=torch.float32)[:count]
    choice, colors = u[:, :1], u[:, 1:].clone()
    colors = torch.where(choice < views.random_background / 2, torch.zeros_like(colors), colors)
    return torch.where(choice >= views.random_background, torch.ones_like(colors), colors)
