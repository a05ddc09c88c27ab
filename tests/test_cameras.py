"""Cameras against projection by hand, and the views of training: ranges, spread, widening, determinism."""

import math
from dataclasses import replace

import pytest
import torch

from dreamerxl.cameras import (
    cameras_at,
    frustums,
    intrinsics,
    look_at,
    orbit_cameras,
    sample_background,
    sample_cameras,
    view_ranges,
)
from dreamerxl.config import Views
from dreamerxl.errors import SettingsError


def project(cameras, points):
    """Pixels and depths [C, N, 3] of world points [N, 3], through the matrices."""
    homogeneous = torch.cat((points, torch.ones(len(points), 1)), dim=1)
    seen = torch.einsum("cij,nj->cni", cameras.viewmats, homogeneous)[..., :3]
    pixels = torch.einsum("cij,cnj->cni", cameras.Ks, seen)
    return torch.cat((pixels[..., :2] / pixels[..., 2:], seen[..., 2:]), dim=-1)


def project_by_hand(point, azimuth_deg, elevation_deg, radius, fovy_deg, width, height):
    """The same for one camera and point, from spherical coordinates: outward, azimuthal and polar directions."""
    az, el = math.radians(azimuth_deg), math.radians(elevation_deg)
    x, y, z = point
    outward = x * math.cos(el) * math.cos(az) + y * math.cos(el) * math.sin(az) + z * math.sin(el)
    azimuthal = -x * math.sin(az) + y * math.cos(az)
    polar = -x * math.sin(el) * math.cos(az) - y * math.sin(el) * math.sin(az) + z * math.cos(el)
    depth = radius - outward
    focal = height / 2 / math.tan(math.radians(fovy_deg) / 2)
    return width / 2 + focal * azimuthal / depth, height / 2 - focal * polar / depth, depth


CAMERAS = [(0, 0, 4, 30), (90, 20, 3.5, 20), (-135, -40, 5, 60), (720.5, 89, 2, 90), (30, 90, 4, 40), (200, -90, 4, 40)]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 40), (33, 77)])
def test_projection_equals_the_one_by_hand(width, height):
    cameras = cameras_at(*torch.tensor(CAMERAS, dtype=torch.float32).T, width, height)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
    found = project(cameras, points)
    for c, camera in enumerate(CAMERAS):
        for n, point in enumerate(points.tolist()):
            assert found[c, n].tolist() == pytest.approx(project_by_hand(point, *camera, width, height), abs=2e-4)


def test_matrices_are_rigid_and_see_the_origin_in_the_middle():
    cameras = cameras_at(*torch.tensor(CAMERAS, dtype=torch.float32).T, 50, 30)
    rotation = cameras.viewmats[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(len(cameras), 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(len(cameras)), atol=1e-6)
    assert torch.equal(cameras.viewmats[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(len(cameras), 4))
    origin = project(cameras, torch.zeros(1, 3))[:, 0]
    assert torch.allclose(origin[:, :2], torch.tensor([25.0, 15.0]).expand(len(cameras), 2), atol=1e-4)
    assert torch.allclose(origin[:, 2], cameras.radius, atol=1e-5)


@pytest.mark.parametrize(
    ("azimuth", "near", "right"), [(0, (1, 0), (0, 1)), (90, (0, 1), (-1, 0)), (180, (-1, 0), (0, -1)), (-90, (0, -1), (1, 0))]
)
def test_sides_of_the_object(azimuth, near, right):
    """The side named is nearest, world up is image up, and the object's left is on the right of its front view."""
    cameras = cameras_at(azimuth, 10, 4, 40, 80, 60)
    points = torch.tensor([[*near, 0.0], [-near[0], -near[1], 0.0], [*right, 0.0], [0.0, 0.0, 0.5]]) * 0.5
    front, back, aside, above = project(cameras, points)[0]
    assert front[2] < back[2]
    assert aside[0] > 40
    assert above[1] < 30


def test_field_of_view_spans_the_image_height():
    K = intrinsics(torch.tensor([60.0]), 100, 50)[0]
    top = K @ torch.tensor([0.0, -math.tan(math.radians(30)), 1.0])
    assert top.tolist() == pytest.approx([50, 0, 1], abs=1e-5)


def test_look_at_anywhere_with_any_up():
    eye = torch.tensor([[1.0, 2.0, 3.0], [-2.0, 0.5, 0.1], [0.0, 0.0, -4.0]])
    target, up = torch.tensor([0.2, -0.1, 0.4]), torch.tensor([0.0, 1.0, 0.3])
    views = look_at(eye, target, up)
    seen = views[:, :3, :3] @ target + views[:, :3, 3]
    distance = torch.linalg.vector_norm(target - eye, dim=-1)
    assert torch.allclose(seen, torch.stack((torch.zeros(3), torch.zeros(3), distance), -1), atol=1e-5)
    upwards = views[:, :3, :3] @ up
    assert torch.allclose(upwards[:, 0], torch.zeros(3), atol=1e-6)
    assert (upwards[:, 1] < 0).all()


@pytest.mark.parametrize("eye", [[0.0, 0.0, 4.0], [0.0, 0.0, -4.0]])
def test_look_at_along_up_is_still_rigid(eye):
    rotation = look_at(torch.tensor([eye]))[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
    sideways = look_at(torch.tensor([[4.0, 0.0, 0.0]]), up=torch.tensor([1.0, 0.0, 0.0]))[0, :3, :3]
    assert torch.allclose(sideways @ sideways.T, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ((0, 91, 4, 30, 8, 8), "elevation_deg is 91; -90 to 90"),
        ((0, 0, 0, 30, 8, 8), "radius is 0"),
        ((0, 0, math.nan, 30, 8, 8), "radius is nan"),
        ((math.inf, 0, 4, 30, 8, 8), "azimuth_deg is inf"),
        ((0, 0, 4, 180, 8, 8), "fovy_deg is 180"),
        ((0, 0, 4, 30, 0, 8), "0 x 8 pixels"),
    ],
)
def test_impossible_cameras_are_refused_with_a_sentence(camera, words):
    with pytest.raises(SettingsError, match=words):
        cameras_at(*camera)


def test_a_camera_on_its_target_is_refused():
    with pytest.raises(SettingsError, match="above 0"):
        look_at(torch.zeros(1, 3))


def test_orbit_is_a_turntable_from_the_front():
    cameras = orbit_cameras(8, 15, 4, 35, 64, 48)
    assert len(cameras) == 8
    assert cameras.azimuth_deg.tolist() == [0, 45, 90, 135, 180, 225, 270, 315]
    eyes = -(cameras.viewmats[:, :3, :3].mT @ cameras.viewmats[:, :3, 3:])[..., 0]
    assert torch.allclose(eyes[:, 2], torch.full((8,), 4 * math.sin(math.radians(15))), atol=1e-5)
    assert torch.allclose(torch.atan2(eyes[:, 1], eyes[:, 0])[2], torch.tensor(math.pi / 2), atol=1e-6)
    assert torch.allclose(torch.linalg.vector_norm(eyes, dim=1), torch.full((8,), 4.0), atol=1e-5)
    moved = cameras.to("cpu")
    assert torch.equal(moved.viewmats, cameras.viewmats) and (moved.width, moved.height) == (64, 48)


VIEWS = Views(batch=3, resolution=48, widen_start=0.25, widen_iterations=100, azimuth_range_deg=120)


def many(views, iteration, count=300):
    return [sample_cameras(views, iteration, torch.Generator().manual_seed(seed)) for seed in range(count)]


@pytest.mark.parametrize(("iteration", "share"), [(0, 0.25), (50, 0.625), (100, 1.0), (5000, 1.0)])
@pytest.mark.parametrize("batch", [1, 3])
def test_samples_fill_their_ranges_as_they_widen(iteration, share, batch):
    batches = many(replace(VIEWS, batch=batch), iteration)
    middle, half = 15.0, 30.0
    for name, low, high in (
        ("azimuth_deg", -120 * share, 120 * share),
        ("elevation_deg", middle - half * share, middle + half * share),
        ("radius", VIEWS.radius_min, VIEWS.radius_max),
        ("fovy_deg", VIEWS.fovy_min_deg, VIEWS.fovy_max_deg),
    ):
        values = torch.cat([getattr(cameras, name) for cameras in batches])
        margin = (high - low) * 1e-5
        assert values.min() >= low - margin and values.max() <= high + margin
        assert values.min() < low + 0.05 * (high - low) and values.max() > high - 0.05 * (high - low)
        # uniform: deviation (high - low) / sqrt(12); 5 standard errors
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * len(values))


def test_radius_and_field_of_view_widen_from_their_starts():
    views = replace(VIEWS, radius_min=2, radius_max=4, start_radius_min=3.5, start_radius_max=5, fovy_min_deg=10, fovy_max_deg=40)
    views = replace(views, start_fovy_min_deg=30)
    begin, middle, end = (view_ranges(views, iteration) for iteration in (0, 50, 400))
    assert begin.radius == (3.5, 5) and begin.fovy_deg == (30, 40)
    assert middle.radius == (2.75, 4.5) and middle.fovy_deg == (20, 40)
    assert end.radius == (2, 4) and end.fovy_deg == (10, 40)
    assert view_ranges(replace(VIEWS, radius_min=2, radius_max=4), 0).radius == (2, 4)
    for iteration, ranges in ((0, begin), (50, middle)):
        cameras = many(views, iteration)
        assert all(ranges.radius[0] <= c.radius.min() and c.radius.max() <= ranges.radius[1] for c in cameras)
        assert all(
            ranges.fovy_deg[0] <= c.fovy_deg.min() + 1e-4 and c.fovy_deg.max() <= ranges.fovy_deg[1] + 1e-4 for c in cameras
        )


def test_a_very_long_run_widens_without_overflow():
    views = Views(widen_rule="released", widen_start=0.1, start_radius_min=5.2, start_radius_max=5.5, start_fovy_min_deg=18)
    ranges = view_ranges(views, 999_999)
    assert ranges.azimuth_deg == 180 and ranges.radius == (3.5, 5.5) and ranges.fovy_deg == (9.2, 34.4)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.8])
def test_gamma_draws_angles_towards_the_middle(gamma):
    """|u|^gamma below a half: as often as |u| is below 0.5^(1 / gamma)."""
    cameras = many(Views(batch=3, resolution=48, angle_gamma=gamma), 0)
    azimuth = torch.cat([c.azimuth_deg for c in cameras]).abs() / 180
    elevation = (torch.cat([c.elevation_deg for c in cameras]) - 15).abs() / 30
    for share in (azimuth, elevation):
        assert (share < 0.5).float().mean().item() == pytest.approx(0.5 ** (1 / gamma), abs=0.05)
        assert share.max() <= 1 + 1e-5


def test_every_batch_sees_several_sides():
    """Any arc of two bins holds a whole bin, hence a camera: no gap between neighbours exceeds 2 * 360 / B."""
    for cameras in many(Views(batch=4), 0, 100):
        azimuth = cameras.azimuth_deg.sort().values
        gaps = torch.diff(azimuth, append=azimuth[:1] + 360)
        assert gaps.max() <= 180 + 1e-3
        assert len(cameras) == 4 and (cameras.width, cameras.height) == (1024, 1024)


def test_each_view_of_a_batch_alone_is_uniform_over_the_circle():
    azimuth = torch.stack([cameras.azimuth_deg for cameras in many(Views(batch=4), 0, 800)])
    for view in range(4):
        counts = torch.histc(azimuth[:, view], 8, -180, 180)
        assert ((counts - 100) ** 2 / 100).sum() < 29.9  # chi-square, 7 degrees of freedom, p = 1e-4


def test_samples_are_a_function_of_the_generator_and_cost_the_same_under_every_setting():
    after = []
    for views in (VIEWS, Views(batch=64, random_background=0.0), Views(batch=1, widen_start=0.0, widen_iterations=9)):
        generator = torch.Generator().manual_seed(11)
        sample_cameras(views, 5, generator)
        sample_background(views, views.batch, generator)
        after.append(torch.rand(4, generator=generator))
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])
    first, again, other = (sample_cameras(VIEWS, 0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.viewmats, again.viewmats) and not torch.equal(first.viewmats, other.viewmats)


def test_backgrounds_are_white_black_or_coloured_as_often_as_asked():
    views, generator = Views(random_background=0.6), torch.Generator().manual_seed(0)
    colors = torch.cat([sample_background(views, 50, generator) for _ in range(80)])
    assert colors.shape == (4000, 3) and colors.min() >= 0 and colors.max() <= 1
    white, black = (colors == 1).all(1).float().mean(), (colors == 0).all(1).float().mean()
    assert white == pytest.approx(0.4, abs=0.04) and black == pytest.approx(0.3, abs=0.04)  # 5 standard errors
    assert (sample_background(Views(random_background=0.0), 5, generator) == 1).all()
    coloured = sample_background(Views(random_background=1.0), 64, generator)
    assert not (coloured == 1).all(1).any() and coloured.unique(dim=0).shape[0] > 10


@pytest.mark.parametrize(("count", "width", "height"), [(1, 64, 64), (3, 80, 48)])
def test_frustums_are_the_centre_and_the_image_corners(count: int, width: int, height: int):
    angles = torch.arange(count) * 100.0
    cameras = cameras_at(angles, 20.0 - angles / 10, 2.0 + angles / 100, 30.0, width, height)
    points = frustums(cameras)
    assert points.shape == (count, 5, 3)
    seen = torch.einsum("cij,cpj->cpi", cameras.viewmats[:, :3, :3], points) + cameras.viewmats[:, None, :3, 3]
    torch.testing.assert_close(seen[:, 0], torch.zeros(count, 3), atol=1e-5, rtol=0)
    pixels = torch.einsum("cij,cpj->cpi", cameras.Ks, seen[:, 1:])
    corners = torch.tensor([[0.0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
    torch.testing.assert_close(pixels, corners.expand(count, 4, 3), atol=1e-3, rtol=0)
