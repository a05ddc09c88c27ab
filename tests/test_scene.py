"""Parameters, activations, frozen copies, and depth as a picture."""

from __future__ import annotations

import numpy as np
import pytest
import splatting_reference as reference
import torch

from dreamerxl.gaussians import scene
from dreamerxl.gaussians.depth import FARTHEST, normalized_disparity


def make(count: int = 20, seed: int = 0) -> tuple[scene.Params, list[torch.Tensor]]:
    values = [t.float() for t in reference.random_scene(count, seed, opacity=(0.1, 0.9))]
    return scene.make_params(*values), values


def test_activations_invert_make_params() -> None:
    params, (means, quats, scales, opacities, colors) = make()
    assert {name: tuple(p.shape) for name, p in params.items()} == {
        "means": (20, 3),
        "quats": (20, 4),
        "scales": (20, 3),
        "opacities": (20,),
        "sh0": (20, 1, 3),
    }
    splats = scene.activate(params)
    for value, wanted in zip(
        (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors),
        (means, quats, scales, opacities, colors),
        strict=True,
    ):
        torch.testing.assert_close(value.detach(), wanted, atol=1e-6, rtol=1e-5)
    sum(t.sum() for t in vars(splats).values()).backward()
    assert all(p.is_leaf and p.grad is not None for p in params.values())


def test_opacities_of_zero_and_one_stay_finite() -> None:
    params, values = make(2)
    values[3] = torch.tensor([0.0, 1.0])
    params = scene.make_params(*values)
    assert torch.isfinite(params["opacities"]).all()
    torch.testing.assert_close(scene.activate(params).opacities.detach(), values[3], atol=1e-5, rtol=0)


def test_clamped_colors_lie_in_the_unit_cube_and_others_stay() -> None:
    params, _ = make()
    with torch.no_grad():
        params["sh0"][0], params["sh0"][1] = 100.0, -100.0
    before = params["sh0"].detach().clone()
    scene.clamp_colors_(params)
    colors = scene.activate(params).colors.detach()
    torch.testing.assert_close(colors[:2], torch.tensor([[1.0] * 3, [0.0] * 3]))
    assert torch.equal(params["sh0"].detach()[2:], before[2:])


@pytest.mark.parametrize("count", [1, 30])
def test_covariances_match_a_rotation_by_quaternion_algebra(count: int) -> None:
    _, quats, scales, _, _ = reference.random_scene(count, 1)
    matrix = reference.quaternion_matrix(quats)
    torch.testing.assert_close(scene.rotations(quats), matrix)
    torch.testing.assert_close(scene.covariances(quats, scales), matrix @ torch.diag_embed(scales**2) @ matrix.mT)


def test_frozen_splats_are_immutable_and_independent() -> None:
    params, _ = make()
    with torch.no_grad():
        params["sh0"][0] = 100.0
    frozen = scene.freeze(params)
    copies = [a.copy() for a in vars(frozen).values()]
    with torch.no_grad():
        for parameter in params.values():
            parameter.add_(1)
    assert all(np.array_equal(a, b) for a, b in zip(vars(frozen).values(), copies, strict=True))
    assert all(a.dtype == np.float32 and not a.flags.writeable for a in vars(frozen).values())
    assert len(frozen) == 20 and frozen.rgbs.max() == 1
    np.testing.assert_allclose(np.linalg.norm(frozen.quats, axis=-1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        frozen.means[0] = 0
    thawed = scene.thaw(frozen)
    assert torch.equal(thawed.means, torch.tensor(frozen.means)) and thawed.means.data_ptr() != frozen.means.ctypes.data


def ramp() -> tuple[torch.Tensor, torch.Tensor]:
    """Depth 2..4 over a square in an empty picture of 6 x 9 pixels."""
    alpha = torch.zeros(6, 9)
    alpha[1:5, 2:7] = 1
    return torch.linspace(2, 4, 9).expand(6, 9) * alpha, alpha


def test_disparity_is_one_at_the_nearest_and_black_behind() -> None:
    depth, alpha = ramp()
    (picture,) = normalized_disparity(depth[None], alpha[None])
    covered = picture[1:5, 2:7]
    assert torch.all(picture[alpha == 0] == 0)
    torch.testing.assert_close(covered[:, 0], torch.ones(4))
    torch.testing.assert_close(covered[:, -1], torch.full((4,), FARTHEST))
    assert torch.all(covered[:, 1:] < covered[:, :-1])
    inverse = 1 / depth[1:5, 2:7]
    share = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    torch.testing.assert_close(covered, FARTHEST + (1 - FARTHEST) * share)


def test_disparity_of_a_batch_is_that_of_each_image() -> None:
    depth, alpha = ramp()
    depths, alphas = torch.stack([depth, 3 * depth, 0 * depth]), torch.stack([alpha, alpha, 0 * alpha])
    together = normalized_disparity(depths, alphas)
    assert torch.all(together[2] == 0)
    for n in range(3):
        torch.testing.assert_close(together[n], normalized_disparity(depths[n : n + 1], alphas[n : n + 1])[0])
    torch.testing.assert_close(together[0], together[1])  # relative: the scale of the depth does not matter


@pytest.mark.parametrize("coverage", ["ramp", "flat", "empty", "faint"])
def test_disparity_and_its_gradients_are_finite_and_in_range(coverage: str) -> None:
    depth, alpha = ramp()
    depth, alpha = {
        "ramp": (depth, alpha),
        "flat": (3 * alpha, alpha),
        "empty": (0 * depth, 0 * alpha),
        "faint": (depth, 0.1 * alpha),
    }[coverage]
    depth, alpha = depth[None].requires_grad_(True), alpha[None].requires_grad_(True)
    picture = normalized_disparity(depth, alpha)
    picture.sum().backward()
    assert torch.isfinite(depth.grad).all() and torch.isfinite(alpha.grad).all()
    assert picture.min() >= 0 and picture.max() <= 1
    if coverage == "flat":
        torch.testing.assert_close(picture, alpha)


def test_disparity_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"depth is \(2, 4, 4\) and alpha \(2, 4, 4, 1\)"):
        normalized_disparity(torch.ones(2, 4, 4), torch.ones(2, 4, 4, 1))
