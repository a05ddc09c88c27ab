"""Gradient clips against slow loops, and the properties that section 3.4 promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerxl.distillation.clipping import clip_color, clip_depth
from dreamerxl.errors import NumericalError

SIZES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 5))
THRESHOLDS = st.floats(1e-8, 1e6)
MAGNITUDES = st.floats(-12, 6)


def image(batch, channels, height, width, seed, exponent):
    """Gradients over six orders of magnitude around 10 ** exponent, with some zeros."""
    generator = torch.Generator().manual_seed(seed)
    size = (batch, channels, height, width)
    spread = torch.randn(size, generator=generator, dtype=torch.float64) * 10 ** (
        exponent + 6 * torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64) - 3
    )
    return torch.where(torch.rand(size, generator=generator) < 0.1, 0.0, spread)


def slow_color(gradient, threshold):
    out = gradient.clone()
    for b in range(gradient.shape[0]):
        for y in range(gradient.shape[2]):
            for x in range(gradient.shape[3]):
                pixel = gradient[b, :, y, x].tolist()
                factor = min(min(1.0, threshold / abs(g)) if g else 1.0 for g in pixel)
                out[b, :, y, x] = torch.tensor([g * factor for g in pixel], dtype=gradient.dtype)
    return out


def slow_depth(gradient, threshold, scale, rule):
    out = gradient.clone()
    for b in range(gradient.shape[0]):
        values = gradient[b].flatten().tolist()
        if rule == "paper":
            values = [g * min(scale / abs(g), threshold) if g else 0.0 for g in values]
        else:
            factor = min(min(1.0, threshold * scale / abs(g)) if g else 1.0 for g in values)
            values = [g * factor for g in values]
        out[b] = torch.tensor(values, dtype=gradient.dtype).view(gradient[b].shape)
    return out


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 10_000), MAGNITUDES, THRESHOLDS)
def test_color_matches_the_loop_and_keeps_its_promises(size, seed, exponent, threshold):
    gradient = image(size[0], 3, *size[1:], seed, exponent)
    clipped = clip_color(gradient, threshold)
    assert torch.allclose(clipped, slow_color(gradient, threshold), rtol=1e-12, atol=0)
    assert (clipped.abs() <= threshold * (1 + 1e-12)).all()
    factor = torch.where(gradient == 0, math.nan, clipped / gradient)  # one for the channels of a pixel, in (0, 1]
    same = factor.nanmean(1, keepdim=True).expand_as(factor)
    assert torch.allclose(factor, torch.where(gradient == 0, math.nan, same), rtol=1e-12, atol=0, equal_nan=True)
    assert not ((factor <= 0) | (factor > 1)).any()
    assert (clipped[gradient == 0] == 0).all()
    small = (gradient.abs() <= threshold).all(1, keepdim=True).expand_as(gradient)
    assert torch.equal(clipped[small], gradient[small])


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 10_000), MAGNITUDES, THRESHOLDS, st.floats(1e-6, 10), st.sampled_from(["paper", "released"]))
def test_depth_matches_the_loop_and_keeps_its_promises(size, seed, exponent, threshold, scale, rule):
    gradient = image(size[0], 1, *size[1:], seed, exponent)
    clipped = clip_depth(gradient, threshold, scale, rule)
    assert torch.allclose(clipped, slow_depth(gradient, threshold, scale, rule), rtol=1e-12, atol=0)
    assert torch.equal(clipped.sign(), gradient.sign())
    if rule == "paper":
        assert torch.allclose(clipped.abs(), (threshold * gradient.abs()).clamp(max=scale), rtol=1e-12, atol=0)
        unscaled = clip_depth(gradient, 1.0, scale, rule)
        small = gradient.abs() <= scale
        assert torch.equal(unscaled[small], gradient[small])
    else:
        bound = threshold * scale
        assert (clipped.abs() <= bound * (1 + 1e-12)).all()
        for b in range(size[0]):
            if (gradient[b].abs() <= bound).all():
                assert torch.equal(clipped[b], gradient[b])


def test_images_of_a_batch_do_not_touch_each_other():
    gradient = image(3, 1, 4, 6, seed=0, exponent=0)
    for rule in ("paper", "released"):
        together = clip_depth(gradient, 0.01, 0.05, rule)
        for b in range(3):
            assert torch.equal(together[b : b + 1], clip_depth(gradient[b : b + 1], 0.01, 0.05, rule))


def test_known_values():
    pixel = torch.tensor([0.1, -0.2, 0.05]).view(1, 3, 1, 1)
    assert torch.allclose(clip_color(pixel, 0.05).flatten(), torch.tensor([0.025, -0.05, 0.0125]))
    depth = torch.tensor([4.0, -0.5, 0.0]).view(1, 1, 1, 3)
    assert torch.allclose(clip_depth(depth, 0.5, 0.1, "paper").flatten(), torch.tensor([0.1, -0.1, 0.0]))
    assert torch.allclose(clip_depth(depth, 0.5, 0.1, "released").flatten(), torch.tensor([0.05, -0.00625, 0.0]))


@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-45, 1e-38])
def test_zero_and_the_smallest_numbers_stay_finite(tiny):
    gradient = torch.full((1, 3, 2, 3), tiny)
    assert torch.equal(clip_color(gradient, 1e6), gradient)
    assert torch.equal(clip_depth(gradient[:, :1], 1.0, 1.0, "paper"), gradient[:, :1])
    assert torch.equal(clip_depth(gradient[:, :1], 1.0, 1.0, "released"), gradient[:, :1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(bad):
    gradient = torch.ones(1, 3, 2, 3)
    gradient[0, 1, 1, 2] = bad
    assert not clip_color(gradient, 0.05)[0, 1, 1, 2].isfinite()
    assert clip_color(gradient, 0.05)[0, :, 0].isfinite().all()
    for rule in ("paper", "released"):
        assert not clip_depth(gradient[:, 1:2], 0.01, 0.05, rule)[0, 0, 1, 2].isfinite()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_one_is_refused(scale):
    with pytest.raises(NumericalError, match="scale of the Gaussians"):
        clip_depth(torch.ones(1, 1, 2, 3), 0.01, scale, "paper")
