"""The methods: special cases to the bit, gradients against Gaussian data in closed form, and what they ask."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from gaussian_data import Gaussian, drive, exact_denoiser, stable_diffusion_alphas

from dreamerxl.config import Timesteps, Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.score import omega
from dreamerxl.distillation.timesteps import plan_steps

ALPHAS = stable_diffusion_alphas()
KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(5)) / 4


def latents(batch, seed, dtype=torch.float32):
    return torch.randn(batch, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(query):
    """A deterministic convolutional 'network' that depends on x, t and guidance."""
    kernel = KERNEL.to(query.x.dtype)
    eps = torch.tanh(F.conv2d(query.x, kernel, padding=1) + math.sin(query.t / 100))
    return eps + 7.5 * torch.sin(3 * query.x + query.t / 50) if query.guided else eps


def run(variant, t, schedule, predict, batch=1, dtype=torch.float32):
    steps = plan_steps(t, variant, Timesteps(), 0)
    method = METHODS[variant.method]
    return drive(method(latents(batch, 0, dtype), steps, latents(batch, 1, dtype), schedule, variant), predict)


def same_bits(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("gradient", "x_t", "eps_t", "eps_reference"))


TRAJECTORIES = [
    {},
    {"delta_s": 37, "delta_t": 250},
    {"inversion_start": "noised", "max_inversion_steps": 5, "delta_s": 60, "weight": "dreamfusion"},
]


@pytest.mark.parametrize("changes", TRAJECTORIES)
@pytest.mark.parametrize("t", [1, 60, 333, 999])
@pytest.mark.parametrize("batch", [1, 3])
def test_tsm_ends_are_ism_and_csd_to_the_bit(changes, t, batch):
    schedule, variant = Schedule(ALPHAS.float()), Variant(**changes)
    ism = run(replace(variant, method="ism"), t, schedule, network, batch)
    csd = run(replace(variant, method="csd", csd_trajectory="inversion"), t, schedule, network, batch)
    assert same_bits(run(replace(variant, gamma=0.0), t, schedule, network, batch), ism)
    assert same_bits(run(replace(variant, gamma=1.0), t, schedule, network, batch), csd)
    assert not torch.equal(ism.gradient, csd.gradient)
    if t > 1:  # the reference between the ends is another one
        middle = run(replace(variant, gamma=0.5), t, schedule, network, batch)
        assert torch.equal(middle.x_t, ism.x_t)
        assert not torch.equal(middle.gradient, ism.gradient) and not torch.equal(middle.gradient, csd.gradient)


def test_released_rule_reaches_the_same_ends_from_the_other_side():
    schedule, variant = Schedule(ALPHAS.float()), Variant(mu_rule="released")
    ism = run(replace(variant, method="ism"), 500, schedule, network)
    csd = run(replace(variant, method="csd", csd_trajectory="inversion"), 500, schedule, network)
    assert same_bits(run(replace(variant, gamma=1.0), 500, schedule, network), ism)
    assert same_bits(run(replace(variant, gamma=0.0), 500, schedule, network), csd)


# Gaussian worlds: the inversion's, the negative prompt's and the prompt's data, and guidance between the last two.
UNCOND, NEGATIVE, COND = Gaussian(0.3, 0.8), Gaussian(-0.5, 1.3), Gaussian(1.1, 0.4)
GUIDANCE = 7.5


def lam(t):
    return math.sqrt((1 - ALPHAS[t].item()) / ALPHAS[t].item())


def weight(t):
    """The released omega in these coordinates."""
    return lam(t)


def eps_line(world, t):
    """(slope, shift) of the exact eps as a function of y = x / sqrt(alpha)."""
    slope = lam(t) / (world.variance + lam(t) ** 2)
    return slope, -slope * world.mean


def guided_line(t):
    (a, b), (c, d) = eps_line(NEGATIVE, t), eps_line(COND, t)
    return a + GUIDANCE * (c - a), b + GUIDANCE * (d - b)


def inverted_line(steps, t):
    """(slope, shift) of y_t as a function of y at the grid's start: Euler's method in lam, then one step from s to t."""
    slope, shift = 1.0, 0.0
    path = [*steps.inversion, t]
    for here, there in pairwise(path):
        a, b = eps_line(UNCOND, here)
        stride = lam(there) - lam(here)
        slope, shift = slope * (1 + stride * a), shift + stride * (a * shift + b)
    return slope, shift


def after(line, then):
    """The line ``then(line(y))``."""
    return then[0] * line[0], then[0] * line[1] + then[1]


def starts_clean(variant):
    """Whether the method takes x_0 itself as lying at the first timestep; elsewhere y = x_0 and noise on top."""
    inverted = variant.method in ("ism", "tsm") or (variant.method == "csd" and variant.csd_trajectory == "inversion")
    return inverted and variant.inversion_start == "clean"


def gradient_line(variant, steps):
    """(slope, shift, noise slope) of the latent gradient as a function of y_first and of the noise, by hand."""
    t, s, mu = steps.t, steps.s, steps.mu
    if variant.method == "sds":
        a, b = guided_line(t)
        return weight(t) * a, weight(t) * b, weight(t) * (a * lam(t) - 1)
    if variant.method == "csd" and variant.csd_trajectory == "noise":
        (a, b), (c, d) = guided_line(t), eps_line(UNCOND, t)
        return weight(t) * (a - c), weight(t) * (b - d), weight(t) * (a - c) * lam(t)
    reference = {"ism": s, "csd": t}.get(variant.method, mu)
    a, b = after(inverted_line(steps, t), guided_line(t))
    c, d = after(inverted_line(steps, reference), eps_line(UNCOND, reference))
    noised = lam(steps.inversion[0]) if variant.inversion_start == "noised" else 0.0
    return weight(t) * (a - c), weight(t) * (b - d), weight(t) * (a - c) * noised


CLOSED = [
    Variant(method="sds"),
    Variant(method="csd"),
    Variant(method="csd", csd_trajectory="inversion", delta_s=120),
    Variant(method="ism"),
    Variant(method="ism", delta_s=50, inversion_start="noised", max_inversion_steps=4),
    Variant(method="tsm"),
    Variant(method="tsm", gamma=0.7, delta_t=200, delta_s=90),
    Variant(method="tsm", mu_rule="released", delta_s=50, inversion_start="noised", max_inversion_steps=4),
]
NAMES = [f"{v.method}-{v.csd_trajectory if v.method == 'csd' else v.inversion_start}-{v.delta_s}" for v in CLOSED]


@pytest.mark.parametrize("variant", CLOSED, ids=NAMES)
@pytest.mark.parametrize("t", [40, 300, 700, 999])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradient_for_one_noise_equals_the_closed_form(variant, t, batch):
    schedule = Schedule(ALPHAS)
    predict = exact_denoiser(schedule, UNCOND, NEGATIVE, COND, GUIDANCE)
    steps = plan_steps(t, variant, Timesteps(), 0)
    found = run(variant, t, schedule, predict, batch, torch.float64)
    x_0, noise = latents(batch, 0, torch.float64), latents(batch, 1, torch.float64)
    slope, shift, noise_slope = gradient_line(variant, steps)
    y_first = x_0 / ALPHAS[steps.inversion[0]].sqrt() if starts_clean(variant) else x_0
    expected = slope * y_first + shift + noise_slope * noise
    assert torch.allclose(found.gradient, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", CLOSED, ids=NAMES)
def test_expected_gradient_over_the_noise_equals_the_closed_form(variant):
    count, t = 20_000, 700
    schedule = Schedule(ALPHAS)
    steps = plan_steps(t, variant, Timesteps(), 0)
    x_0 = latents(1, 0, torch.float64)
    noise = torch.randn(count, *x_0.shape[1:], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    predict = exact_denoiser(schedule, UNCOND, NEGATIVE, COND, GUIDANCE)
    found = drive(METHODS[variant.method](x_0.expand_as(noise), steps, noise, schedule, variant), predict).gradient

    slope, shift, noise_slope = gradient_line(variant, steps)
    y_first = x_0[0] / ALPHAS[steps.inversion[0]].sqrt() if starts_clean(variant) else x_0[0]
    expected = slope * y_first + shift
    deviation = abs(noise_slope)  # the gradient is a line in the noise, whose deviation is 1
    # 5 standard errors: the mean of 60 elements leaves them by chance once in 30,000 runs; 1e-10 is float64 rounding
    assert ((found.mean(0) - expected).abs() <= 5 * deviation / math.sqrt(count) + 1e-10).all()
    assert ((found.std(0) - deviation).abs() <= 5 * deviation / math.sqrt(2 * count) + 1e-10).all()


def test_prompt_and_data_in_agreement_leave_no_expected_sds_gradient():
    """With w = 1 and x_0 from the prompt's data, E[eps(x_t)] = E[noise] = 0: the data is a stationary point."""
    count, t = 20_000, 500
    schedule = Schedule(ALPHAS)
    draws = torch.randn(2, count, 4, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_0 = COND.mean + math.sqrt(COND.variance) * draws[0]
    variant = Variant(method="sds")
    steps = plan_steps(t, variant, Timesteps(), 0)
    found = drive(METHODS["sds"](x_0, steps, draws[1], schedule, variant), exact_denoiser(schedule, UNCOND, NEGATIVE, COND, 1.0))
    assert (found.gradient.mean(0).abs() < 5 * found.gradient.std(0) / math.sqrt(count)).all()


def rounds(variant, t):
    """What a method asks, round by round, and the queries themselves."""
    asked = []
    steps = plan_steps(t, variant, Timesteps(), 0)
    method = METHODS[variant.method](latents(3, 0), steps, latents(3, 1), Schedule(ALPHAS.float()), variant)
    answers = None
    while True:
        try:
            queries = method.send(answers)
        except StopIteration:
            return asked
        assert isinstance(queries, tuple)
        asked.append(queries)
        answers = tuple(network(query) for query in queries)


def test_questions_come_in_the_order_of_algorithm_1():
    def shape(variant):
        return [[(query.t, query.guided) for query in queries] for queries in rounds(variant, 500)]

    inversion = [[(0, False)], [(200, False)], [(400, False)], [(420, False)]]
    assert shape(Variant(method="tsm")) == [*inversion, [(500, True), (444, False)]]
    assert shape(Variant(method="tsm", gamma=0)) == shape(Variant(method="ism")) == [*inversion, [(500, True)]]
    assert shape(Variant(method="csd", csd_trajectory="inversion")) == [*inversion, [(500, True), (500, False)]]
    assert shape(Variant(method="csd")) == [[(500, True), (500, False)]]
    assert shape(Variant(method="sds")) == [[(500, True)]]


@pytest.mark.parametrize(
    "variant", [Variant(gamma=1.0), Variant(method="csd"), Variant(method="csd", csd_trajectory="inversion")]
)
def test_one_set_of_latents_is_asked_about_as_one_object(variant):
    guided, unguided = rounds(variant, 500)[-1]
    assert guided.x is unguided.x


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_leave_their_inputs_alone_and_return_a_detached_gradient(method):
    x_0, noise = latents(3, 0).requires_grad_(), latents(3, 1)
    before = x_0.detach().clone(), noise.clone()
    variant = Variant(method=method)
    steps = plan_steps(500, variant, Timesteps(), 0)
    score = drive(METHODS[method](x_0, steps, noise, Schedule(ALPHAS.float()), variant), network)
    assert not score.gradient.requires_grad
    assert score.gradient.shape == x_0.shape and score.gradient.dtype == torch.float32 and score.t == 500
    assert torch.equal(x_0, before[0]) and torch.equal(noise, before[1])


@pytest.mark.parametrize("t", [1, 500, 999])
def test_weights(t):
    alpha = ALPHAS[t].item()
    schedule = Schedule(ALPHAS)
    assert omega(schedule, t, "released").item() == pytest.approx(math.sqrt((1 - alpha) / alpha))
    assert omega(schedule, t, "dreamfusion").item() == pytest.approx(1 - alpha)
    assert omega(schedule, t, "uniform").item() == 1
