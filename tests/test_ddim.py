"""DDIM steps and inversion against diffusers' schedulers and against the exact probability-flow path."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from gaussian_data import Gaussian, drive, stable_diffusion_alphas

from dreamerxl.config import Timesteps, Variant
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule, from_diffusers
from dreamerxl.distillation.inversion import invert
from dreamerxl.distillation.timesteps import Steps, plan_steps

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def latents(batch, seed=0, dtype=torch.float32):
    """Drawn by numpy, whose draws are the same on every processor, to the bit; PyTorch's are not."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((batch, 4, 6, 10))).to(dtype)


def network(x, t):
    """A deterministic output without any meaning, of unit size."""
    return torch.sin(2 * x + 0.01 * t) + 0.3 * torch.roll(x, 1, dims=-1).tanh()


def output_for(schedule, x, t):
    """What a network that knows the data exactly would say, in the schedule's parametrisation; here the data is Gaussian."""
    alpha = schedule.alphas_cumprod[t]
    eps = Gaussian(mean=0.7, variance=0.25).eps(x, alpha)
    x_0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    return {"epsilon": eps, "sample": x_0, "v_prediction": alpha.sqrt() * eps - (1 - alpha).sqrt() * x_0}[
        schedule.prediction_type
    ]


# The product takes eps from the output and steps from x_t and eps, diffusers goes through x_0: the same formulas (float64)
# with another rounding (float32). Steps take outputs without meaning and are held against |x|, element by element where it
# exceeds 1. A whole inversion takes the outputs of exact data and is held against its largest element: a network without
# meaning enlarges from step to step what the first one rounded, in diffusers' as in ours. Its reference is diffusers' in
# float64, in either precision: over 50 steps diffusers' own float32 strays from that by up to 1.1e-6, more than the bound.
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


def ready(scheduler, count, dtype):
    """The scheduler set to count steps and our schedule, both with the same table, float32's, in that precision."""
    scheduler.set_timesteps(count)
    prediction_type = from_diffusers(scheduler).prediction_type
    scheduler.alphas_cumprod = stable_diffusion_alphas().float().to(dtype)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler, Schedule(scheduler.alphas_cumprod, prediction_type)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("count", [4, 10, 50])
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_match_the_ddim_scheduler(prediction_type, dtype, bound, count, batch):
    scheduler, schedule = ready(DDIMScheduler(**CONFIG, prediction_type=prediction_type), count, dtype)
    x = latents(batch, dtype=dtype)
    for t in scheduler.timesteps.tolist():
        output = network(x, t)
        theirs = scheduler.step(output, t, x).prev_sample
        ours = ddim_step(schedule, x, schedule.to_eps(output, x, t), t, max(t - 1000 // count, 0))
        assert ours.dtype == dtype
        assert ((ours - theirs).abs() < bound * theirs.abs().clamp_min(1)).all()
        x = theirs


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("count", [5, 10, 50])
@pytest.mark.parametrize("batch", [1, 3])
def test_inversion_matches_the_inverse_ddim_scheduler(prediction_type, dtype, bound, count, batch):
    scheduler, schedule = ready(DDIMInverseScheduler(**CONFIG, prediction_type=prediction_type), count, dtype)
    visited = scheduler.timesteps.tolist()
    x_0 = latents(batch, dtype=dtype)

    x = x_0
    for here, there in pairwise(visited):
        output = network(x, here)
        theirs = scheduler.step(output, there, x).prev_sample
        ours = ddim_step(schedule, x, schedule.to_eps(output, x, here), here, there)
        assert ((ours - theirs).abs() < bound * theirs.abs().clamp_min(1)).all()
        x = theirs

    exact, exactly = ready(DDIMInverseScheduler(**CONFIG, prediction_type=prediction_type), count, torch.float64)
    theirs = x_0.double()
    for here, there in pairwise(visited):
        theirs = exact.step(output_for(exactly, theirs, here), there, theirs).prev_sample
    steps = Steps(t=visited[-1] + 1, s=visited[-1], mu=visited[-1], inversion=tuple(visited))
    ours = drive(
        invert(x_0, steps, torch.zeros_like(x_0), schedule, Variant()),
        lambda query: schedule.to_eps(output_for(schedule, query.x, query.t), query.x, query.t),
    )
    assert (ours - theirs).abs().max() < bound * max(1, theirs.abs().max())


def test_a_step_and_back_with_the_same_noise_is_the_identity():
    schedule = Schedule(stable_diffusion_alphas())
    x, eps = latents(3, dtype=torch.float64), latents(3, seed=1, dtype=torch.float64)
    there = ddim_step(schedule, x, eps, 120, 700)
    assert torch.allclose(ddim_step(schedule, there, eps, 700, 120), x, atol=1e-12)
    rows = torch.tensor([5, 120, 300])
    by_row = ddim_step(schedule, x, eps, rows, rows + 40)
    for row, t in enumerate(rows.tolist()):
        assert torch.equal(by_row[row], ddim_step(schedule, x, eps, t, t + 40)[row])


def inversion_error(schedule, delta_s, s, start):
    """Largest difference between the inversion of x_0 and the exact path, which for Gaussian data is known."""
    world = Gaussian(mean=0.7, variance=0.25)
    x_0, noise = latents(2, dtype=torch.float64), latents(2, seed=1, dtype=torch.float64)
    variant = Variant(method="ism", delta_t=1, delta_s=delta_s, inversion_start=start)
    steps = plan_steps(s + 1, variant, Timesteps(), 0)
    reached = drive(
        invert(x_0, steps, noise, schedule, variant), lambda query: world.eps(query.x, schedule.alphas_cumprod[query.t])
    )
    first, last = schedule.alphas_cumprod[0], schedule.alphas_cumprod[s]
    beginning = x_0 if start == "clean" else first.sqrt() * x_0 + (1 - first).sqrt() * noise
    widths = [(alpha * world.variance + 1 - alpha).sqrt() for alpha in (first, last)]
    exact = last.sqrt() * world.mean + widths[1] / widths[0] * (beginning - first.sqrt() * world.mean)
    return (reached - exact).abs().max().item()


@pytest.mark.parametrize("start", ["clean", "noised"])
def test_inversion_error_falls_at_first_order_in_delta_s(start):
    schedule = Schedule(stable_diffusion_alphas())
    sizes = [1, 2, 4, 8]
    errors = [inversion_error(schedule, size, 896, start) for size in sizes]
    orders = np.diff(np.log2(errors))
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(1, abs=0.03)
    assert orders[0] == pytest.approx(1, abs=0.01)
    assert 0.95 < orders[2] < orders[1] < orders[0]  # the order is reached from one side as the steps shrink


@pytest.mark.parametrize("s", [0, 1, 130, 400])
def test_inversion_asks_once_a_step_at_the_grid_and_stops_at_s(s):
    schedule = Schedule(stable_diffusion_alphas())
    x_0 = latents(1, dtype=torch.float64)
    asked = []

    def predict(query):
        asked.append((query.t, query.guided))
        return torch.zeros_like(query.x)

    steps = plan_steps(s + 80, Variant(delta_s=200), Timesteps(), 0)
    reached = drive(invert(x_0, steps, x_0, schedule, Variant()), predict)
    assert asked == [(t, False) for t in range(0, s, 200)]
    if s == 0:
        assert reached is x_0
    else:  # without noise x / sqrt(alpha) stays as it is
        assert torch.allclose(reached / schedule.signal(s), x_0 / schedule.signal(0), atol=1e-12)
