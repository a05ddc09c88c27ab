"""What the view is sent: every side in its place in the buffer, finite, padded and right; lines of the training cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fake_training import ball

from dreamerxl.cameras import cameras_at, frustums
from dreamerxl.gaussians.scene import FrozenSplats, covariances, freeze
from dreamerxl.web.view_scene import CAMERA_DEPTH, COUNT_STEP, MOST_SPLATS, camera_lines, pack_sides, ready_ball

NOTHING = FrozenSplats(*(np.zeros(shape, np.float32) for shape in ((0, 3), (0, 4), (0, 3), 0, (0, 3))))


def test_sides_follow_each_other_with_the_same_count():
    scenes = freeze(ball(300)), freeze(ball(COUNT_STEP + 1, seed=1))
    centers, sigmas, colors, alphas = pack_sides(scenes)
    count = 2 * COUNT_STEP
    assert len(centers) == len(sigmas) == len(colors) == len(alphas) == 2 * count
    for start, scene in zip((0, count), scenes, strict=True):
        used, padding = slice(start, start + len(scene)), slice(start + len(scene), start + count)
        np.testing.assert_array_equal(centers[used], scene.means)
        wanted = covariances(torch.tensor(scene.quats), torch.tensor(scene.scales)).numpy()
        np.testing.assert_allclose(sigmas[used], wanted, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(colors[used], scene.rgbs)
        np.testing.assert_allclose(alphas[used, 0], scene.opacities)
        assert (alphas[padding] == 0).all()


@pytest.mark.parametrize("part", ["means", "quats", "scales", "opacities", "rgbs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out(part: str, bad: float):
    scene = freeze(ball(50))
    broken = getattr(scene, part).copy()
    broken[3] = bad
    packed = pack_sides([dataclasses.replace(scene, **{part: broken})])
    assert all(np.isfinite(array).all() for array in packed)
    assert (packed[3] > 0).sum() == 49


def test_the_most_opaque_are_kept_of_too_many():
    count = MOST_SPLATS + 5000
    opacities = np.random.default_rng(0).permutation(count).astype(np.float32) / count
    ones = np.ones((count, 3), np.float32)
    scene = FrozenSplats(ones, np.tile(np.float32([1, 0, 0, 0]), (count, 1)), 0.01 * ones, opacities, 0.5 * ones)
    alphas = pack_sides([scene])[3]
    visible = alphas[alphas > 0]
    assert len(visible) == MOST_SPLATS
    assert visible.min() == pytest.approx(5000 / count)


def test_empty_scenes_can_be_shown():
    packed = pack_sides([NOTHING, NOTHING])
    assert len(packed[0]) == 2 * COUNT_STEP and (packed[3] == 0).all()


@pytest.mark.parametrize("sides", [1, 3])
def test_the_points_before_a_run_are_the_same_on_every_side(sides: int):
    for part, alone in zip(ready_ball(sides), ready_ball(1), strict=True):
        assert np.isfinite(part).all()
        np.testing.assert_array_equal(part.reshape(sides, *alone.shape), np.stack([alone] * sides))


def test_lines_of_a_camera_run_from_its_centre_to_its_image_and_around_it():
    cameras = cameras_at(torch.tensor([0.0, 90.0]), 0.0, 4.0, 53.13, 64, 64)  # the image is 1 wide at distance 1
    lines = camera_lines(frustums(cameras).numpy())
    assert lines.shape == (16, 2, 3)
    first = lines[:8]
    np.testing.assert_allclose(first[:4, 0], [[4, 0, 0]] * 4, atol=1e-5)
    half = CAMERA_DEPTH / 2
    corners = {(-half, half), (half, half), (half, -half), (-half, -half)}  # y to the right as seen from +x, z up
    for ends in (first[:4, 1], first[4:, 0], first[4:, 1]):
        np.testing.assert_allclose(ends[:, 0], 4 - CAMERA_DEPTH, atol=1e-4)
        assert {tuple(np.round(end, 3)) for end in ends[:, 1:].tolist()} == corners
    np.testing.assert_allclose(
        np.linalg.norm(first[4:, 1] - first[4:, 0], axis=-1), CAMERA_DEPTH, rtol=1e-3
    )  # sides, no diagonal
    np.testing.assert_allclose(lines[8, 0], [0, 4, 0], atol=1e-5)


def test_no_cameras_are_no_lines():
    assert camera_lines(np.zeros((0, 5, 3), np.float32)).shape == (0, 2, 3)
