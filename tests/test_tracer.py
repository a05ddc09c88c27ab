"""The tracer sees what closed forms say that a ray meets; distances are checked against clouds of points."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from dreamerxl.cameras import Cameras, cameras_at
from dreamerxl.miniature import solids, tracer
from dreamerxl.miniature.render import Scene, render
from dreamerxl.miniature.solids import (
    PAINT,
    Coat,
    Paint,
    Solid,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    prism,
    sphere,
    table,
    torus,
)
from dreamerxl.miniature.tracer import solid_distance, trace_all

HIT = float(tracer.HIT)  # a ray stops once it is closer than this
RED = Coat((0.8, 0.1, 0.1))
PIXELS = 48
Inside = Callable[[np.ndarray], np.ndarray]


def camera(
    azimuth: float = 30.0, elevation: float = 20.0, radius: float = 4.0, fovy: float = 34.4, size: int = PIXELS
) -> Cameras:
    return cameras_at(*(torch.tensor([v]) for v in (azimuth, elevation, radius, fovy)), size, size)


def traced(parts: list[Solid], cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Colour [H, W, 3] and depth along the camera's axis [H, W], 0 where nothing is met; on white, no shadow."""
    rotation = cameras.viewmats[:, :3, :3].contiguous()
    origin = -(rotation.transpose(1, 2) @ cameras.viewmats[:, :3, 3:])[..., 0]
    size = cameras.height
    color, depth = np.zeros((1, size, size, 3), np.float32), np.zeros((1, size, size), np.float32)
    zero = np.zeros(1, np.float32)
    arrays = (
        table(parts, RED)[None],
        np.array([len(parts)], np.int32),
        origin.numpy(),
        rotation.numpy(),
        cameras.Ks[:, 0, 0].numpy(),
        zero,
        zero,
        np.ones((1, 3), np.float32),
    )
    trace_all(arrays, size, color, depth, on_cuda=False)
    return color[0], depth[0]


def rays(cameras: Cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin [3], unit directions [H, W, 3] and the camera's axis [3], from the matrices alone."""
    size, focal = cameras.height, cameras.Ks[0, 0, 0].item()
    to_world = np.linalg.inv(cameras.viewmats[0].double().numpy())
    v, u = np.mgrid[0:size, 0:size] + 0.5
    directions = np.stack([(u - size / 2) / focal, (v - size / 2) / focal, np.ones_like(u)], -1) @ to_world[:3, :3].T
    return to_world[:3, 3], directions / np.linalg.norm(directions, axis=-1, keepdims=True), to_world[:3, 2]


def meet_ellipsoid(o: np.ndarray, d: np.ndarray, center: tuple, radii: tuple, turn: tuple = (0, 0, 0)) -> tuple:
    """Distance along each ray to an ellipsoid (nan where missed) and the outward normal there."""
    back = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()  # extrinsic: about x, then y, then z
    p, q = (o - np.array(center)) @ back / radii, d @ back / radii
    a, b, c = (q * q).sum(-1), (q * p).sum(-1), (p * p).sum(-1) - 1
    with np.errstate(invalid="ignore"):
        t = (-b - np.sqrt(b * b - a * c)) / a
    normal = ((p + t[..., None] * q) / radii) @ back.T
    return t, normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def meet_box(o: np.ndarray, d: np.ndarray, center: tuple, half: tuple, turn: tuple) -> tuple:
    """The same for a box, by slabs."""
    back = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    p, q = (o - np.array(center)) @ back, d @ back
    near, far = np.sort([(-np.array(half) - p) / q, (np.array(half) - p) / q], 0)
    t, leave = near.max(-1), far.min(-1)
    axis = near.argmax(-1)
    normal = -np.sign(np.take_along_axis(q, axis[..., None], -1)) * np.eye(3)[axis] @ back.T
    return np.where(t < leave, t, np.nan), normal


def check_depth(part: Solid, expected: np.ndarray, normals: np.ndarray, cameras: Cameras) -> None:
    """Where rays fall on the surface at no flat angle, they stop at it; where they miss by a margin, nothing is met."""
    _, directions, axis = rays(cameras)
    _, depth = traced([part], cameras)
    hit = np.isfinite(expected)
    steep = np.zeros_like(hit)
    facing = -(normals * directions).sum(-1)
    steep[hit] = facing[hit] > 0.3
    assert steep.sum() > 100
    error = np.abs(depth - expected * (directions @ axis))[steep]
    assert error.max() < HIT / 0.3 + 1e-3
    near = np.pad(hit, 1)
    around = np.any([near[i : i + PIXELS, j : j + PIXELS] for i in range(3) for j in range(3)], 0)
    assert (depth[~around] == 0).all()


@pytest.mark.parametrize("view", [(0.0, 0.0), (130.0, 40.0), (-75.0, -20.0)])
def test_rays_meet_an_ellipsoid_where_the_quadratic_formula_says(view: tuple[float, float]) -> None:
    cameras = camera(*view)
    center, radii, turn = (0.1, -0.2, 0.15), (0.6, 0.35, 0.45), (20.0, -35.0, 50.0)
    o, d, _ = rays(cameras)
    check_depth(ellipsoid(center, radii, PAINT, turn), *meet_ellipsoid(o, d, center, radii, turn), cameras)


@pytest.mark.parametrize("view", [(20.0, 10.0), (200.0, 55.0)])
def test_rays_meet_a_box_where_its_slabs_say(view: tuple[float, float]) -> None:
    cameras = camera(*view)
    center, half, turn = (-0.1, 0.05, 0.1), (0.5, 0.3, 0.4), (15.0, 25.0, -40.0)
    o, d, _ = rays(cameras)
    check_depth(box(center, half, PAINT, turn, rounding=0.0), *meet_box(o, d, center, half, turn), cameras)


def test_a_cut_ball_is_flat_and_a_hollow_one_shows_its_inside() -> None:
    cameras = camera(0.0, 90.0)  # straight down: depth is 4 - z
    middle = slice(PIXELS // 2 - 1, PIXELS // 2 + 1)
    _, flat = traced([sphere((0, 0, 0), 0.5, PAINT, high=0.1)], cameras)
    assert flat[middle, middle] == pytest.approx(3.9, abs=HIT + 1e-3)
    _, bowl = traced([sphere((0, 0, 0), 0.5, PAINT, hollow=0.1, high=0.1)], cameras)
    assert bowl[middle, middle] == pytest.approx(4.4, abs=0.01)  # the floor: 0.5 deep, less the wall


def test_the_picture_is_the_right_way_round() -> None:
    """From the front, the object's left (+y) is on the right of the picture and +z at its top."""
    color, _ = traced([sphere((0, 0.5, 0), 0.2, "red"), sphere((0, 0, 0.6), 0.2, "blue")], camera(0.0, 0.0))
    red, blue = (color[..., i] - color.max(-1) >= 0 for i in (0, 2))
    covered = color.min(-1) < 0.5
    (_, x), (z, _) = (np.argwhere(mask & covered).mean(0) for mask in (red, blue))
    assert x > 0.6 * PIXELS and z < 0.4 * PIXELS


def in_cone(bottom: float, top: float, half: float) -> Inside:
    return lambda p: (abs(p[:, 2]) < half) & (np.hypot(p[:, 0], p[:, 1]) < bottom + (top - bottom) * (p[:, 2] / half + 1) / 2)


def near_stick(start: tuple, end: tuple, radius: float) -> Inside:
    a, b = np.array(start), np.array(end)

    def inside(p: np.ndarray) -> np.ndarray:
        along = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        return np.linalg.norm(p - a - along[:, None] * (b - a), axis=1) < radius

    return inside


SOLIDS: dict[str, tuple[Solid, Inside]] = {
    "ellipsoid": (ellipsoid((0, 0, 0), (0.5, 0.3, 0.4), PAINT), lambda p: ((p / (0.5, 0.3, 0.4)) ** 2).sum(1) < 1),
    "box": (box((0, 0, 0), (0.5, 0.3, 0.2), PAINT, rounding=0.0), lambda p: (abs(p) < (0.5, 0.3, 0.2)).all(1)),
    "rounded box": (
        box((0, 0, 0), (0.4, 0.2, 0.1), PAINT, rounding=0.1),
        lambda p: np.linalg.norm(np.maximum(abs(p) - (0.4, 0.2, 0.1), 0), axis=1) < 0.1,
    ),
    "cone": (cone((0, 0, 0), 0.5, 0.2, 0.4, PAINT), in_cone(0.5, 0.2, 0.4)),
    "point": (cone((0, 0, 0), 0.4, 0.0, 0.5, PAINT), in_cone(0.4, 0.0, 0.5)),
    "cylinder": (cylinder((0, 0, 0), 0.4, 0.3, PAINT, rounding=0.0), in_cone(0.4, 0.4, 0.3)),
    "torus": (torus((0, 0, 0), 0.4, 0.15, PAINT), lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.4, p[:, 2]) < 0.15),
    "wide torus": (
        torus((0, 0, 0), 0.4, 0.1, PAINT, flat=3.0),
        lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.4, p[:, 2] / 3) < 0.1,
    ),
    "handle": (
        torus((0, 0, 0), 0.4, 0.15, PAINT, low=0.1),
        lambda p: (np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.4, p[:, 2]) < 0.15) & (p[:, 1] > 0.1),
    ),
    "capsule": (capsule((-0.3, 0.1, 0), (0.3, 0, 0.4), 0.15, PAINT), near_stick((-0.3, 0.1, 0), (0.3, 0, 0.4), 0.15)),
    "prism": (
        prism((0, 0, 0), (0.4, 0.3, 0.25), PAINT),
        lambda p: (abs(p[:, 0]) < 0.4) & (abs(p[:, 2]) < 0.25) & (abs(p[:, 1]) < 0.3 * (0.25 - p[:, 2]) / 0.5),
    ),
    "slice": (
        ellipsoid((0, 0, 0), (0.5, 0.5, 0.5), PAINT, low=-0.1, high=0.2),
        lambda p: (np.linalg.norm(p, axis=1) < 0.5) & (p[:, 2] > -0.1) & (p[:, 2] < 0.2),
    ),
    "shell": (
        sphere((0, 0, 0), 0.5, PAINT, hollow=0.15, high=0.1),
        lambda p: (np.linalg.norm(p, axis=1) < 0.5) & (np.linalg.norm(p, axis=1) > 0.35) & (p[:, 2] < 0.1),
    ),
}
EXACT = ("box", "rounded box", "cylinder", "torus", "capsule")  # of the others the distance is a bound


@pytest.mark.parametrize("name", list(SOLIDS))
def test_distances_agree_with_a_cloud_of_points(name: str) -> None:
    """Negative inside, positive outside; never longer than the way to the solid by more than a step allows for."""
    part, inside = SOLIDS[name]
    generator = np.random.default_rng(0)
    rows = table([part], RED)[None]
    points = generator.uniform(-0.9, 0.9, (4000, 3)).astype(np.float32)
    distance = np.array([solid_distance(rows, 0, 0, *p) for p in points])
    within = inside(points)
    clear = abs(distance) > 1e-4
    assert ((distance < 0) == within)[clear].all() and within.sum() > 30
    cloud = generator.uniform(-0.8, 0.8, (1_500_000, 3))
    tree = cKDTree(cloud[inside(cloud)])
    outside = distance > 0.05
    way, _ = tree.query(points[outside])  # a little too long, since the cloud has gaps of about 0.01
    assert (distance[outside] < 1.35 * way).all()
    if name in EXACT:
        assert np.abs(distance[outside] - way).max() < 0.03
    assert np.linalg.norm(points[within] - np.array(part.center), axis=1).max() <= solids.bounding_radius(part)


def test_turning_and_moving_together_is_one_rigid_motion() -> None:
    parts = [box((0.2, 0.1, 0), (0.3, 0.1, 0.2), PAINT, (10, 20, 30)), capsule((0, 0, 0), (0.3, 0.2, 0.4), 0.1, PAINT)]
    turn, about = (25.0, -40.0, 70.0), (0.1, -0.2, 0.3)
    moved = solids.turned(parts, turn, about)
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    generator = np.random.default_rng(1)
    before, after = table(parts, RED)[None], table(moved, RED)[None]
    for p in generator.uniform(-0.7, 0.7, (50, 3)):
        q = (matrix @ (p - about) + about).astype(np.float32)
        for i in range(len(parts)):
            assert solid_distance(after, 0, i, *q) == pytest.approx(solid_distance(before, 0, i, *p.astype(np.float32)), abs=1e-5)
    half = table(solids.scaled(parts, 0.5), RED)[None]
    p = np.float32([0.6, -0.3, 0.5])
    assert solid_distance(half, 0, 0, *(p / 2)) == pytest.approx(solid_distance(before, 0, 0, *p) / 2, abs=1e-6)


def test_a_ball_covers_the_disc_that_projection_gives_and_its_edge_is_smooth() -> None:
    cameras = camera(size=96)
    image, depth = render([Scene(table([sphere((0, 0, 0), 0.5, PAINT)], RED))], cameras, torch.ones(1, 3))
    focal = 48 / math.tan(math.radians(17.2))
    expected = math.pi * (focal * 0.5 / math.sqrt(4.0**2 - 0.5**2)) ** 2  # pixels; the silhouette of a ball on the axis is a disc
    share = (1 - image[0, 1]) / (1 - image[0, 1, 48, 48])  # of the pixel that is covered, near enough
    assert abs((share > 0.5).sum().item() / expected - 1) < 0.03
    assert depth[0, 0, 48, 48] > 0.99 and depth[0, 0, 0, 0] == 0  # nearest in the middle, background zero
    edge = (depth[0, 0] > 0) & (depth[0, 0] < 0.2)
    assert edge.sum() > 20, "no pixel at the edge is covered in part"


def test_paint_takes_the_coat_and_other_parts_keep_their_colour() -> None:
    parts = [sphere((0, -0.5, 0), 0.3, PAINT), sphere((0, 0.5, 0), 0.3, "white"), sphere((0, 0, 0.6), 0.2, Paint(0.5))]
    rows = table(parts, Coat((0.2, 0.4, 0.8), solids.STRIPED))
    colors, finishes = rows[:, solids.FIRST : solids.FIRST + 3], rows[:, solids.FINISH]
    assert np.allclose(colors, [(0.2, 0.4, 0.8), solids.PALETTE["white"], (0.1, 0.2, 0.4)])
    assert finishes.tolist() == [solids.STRIPED, solids.MATTE, solids.STRIPED]


@pytest.mark.parametrize("finish", [solids.STRIPED, solids.SPOTTED, solids.WOODEN])
def test_patterns_show_both_colours_from_every_side(finish: int) -> None:
    for azimuth in (0.0, 90.0, 180.0, 270.0):
        cameras = camera(azimuth)
        plain, _ = render([Scene(table([sphere((0, 0, 0), 0.7, PAINT)], RED))], cameras, torch.ones(1, 3))
        coat = Coat(RED.color, finish)
        image, depth = render([Scene(table([sphere((0, 0, 0), 0.7, PAINT)], coat))], cameras, torch.ones(1, 3))
        differs = ((image - plain).abs().sum(1) > 0.05)[depth[:, 0] > 0].float().mean()
        assert 0.1 < differs < 0.9


def test_a_shadow_darkens_the_ground_beside_its_object_and_leaves_the_sky() -> None:
    rows, cameras = table([sphere((0, 0, 0), 0.4, PAINT)], RED), camera(0.0, 20.0)
    background = torch.tensor([[0.4, 0.8, 0.6]])
    without, _ = render([Scene(rows)], cameras, background, supersample=1)
    with_shadow, depth = render([Scene(rows, shadow=0.5, ground=-0.4)], cameras, background, supersample=1)
    ball = depth[0, 0] > 0
    assert torch.equal(without[..., ball], with_shadow[..., ball])
    lowest = int(ball.any(1).nonzero().max())
    below = with_shadow[0, :, lowest + 1, PIXELS // 2 - 4 : PIXELS // 2 + 4] / background[0, :, None]
    assert below.min() < 0.75
    assert torch.allclose(with_shadow[0, :, 0], background[0, :, None].expand(3, PIXELS), atol=0.02)
