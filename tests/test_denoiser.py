"""The batched answer to the methods' queries, with a predictor whose noise is known in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dreamerxl.config import Timesteps, Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.queries import Distillation, Guided, Predictions, Queries, Unconditional
from dreamerxl.distillation.score import Score
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.guidance.conditioning import Conditioning
from dreamerxl.guidance.denoiser import Denoiser, advance_together

SCHEDULE = Schedule((1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0))
NEGATIVE, INVERSION = 2.0, 3.0


class Recorder:
    """eps = x (1 + t / 1000) + prompt, where a prompt is one number; keeps the rows of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, list[int], list[float]]] = []

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        prompts = conditioning.hidden[:, 0, 0]
        self.calls.append((latents, timesteps.tolist(), prompts.tolist()))
        return latents * (1 + timesteps[:, None, None, None] / 1000) + prompts[:, None, None, None]


def prompt(*values: float) -> Conditioning:
    return Conditioning(torch.tensor(values)[:, None, None])


def denoiser(scales: list[float], batch: int = 2, shared: bool = False, max_rows: int | None = None) -> tuple[Denoiser, Recorder]:
    network = Recorder()
    views = prompt(*(10.0 + i for i in range(batch)))
    return Denoiser(network, views, prompt(NEGATIVE), None if shared else prompt(INVERSION), scales, max_rows), network


def latents(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def eps(x: Tensor, t: int, *prompts: float) -> Tensor:
    return x * (1 + t / 1000) + torch.tensor(prompts)[:, None, None, None]


@pytest.mark.parametrize("batch", [1, 3])
def test_guidance_is_negative_plus_scaled_difference(batch: int) -> None:
    answerer, network = denoiser([7.5], batch)
    x, y = latents(batch), latents(batch, 1)
    guided, plain = answerer.answer({0: (Guided(x, 600), Unconditional(y, 250))})[0]
    negative, positive = eps(x, 600, NEGATIVE), eps(x, 600, *(10.0 + i for i in range(batch)))
    assert torch.allclose(guided, negative + 7.5 * (positive - negative), atol=1e-5)
    assert torch.allclose(plain, eps(y, 250, INVERSION), atol=1e-6)
    assert len(network.calls) == answerer.calls == 1 and answerer.evaluations == 3 * batch
    assert network.calls[0][1] == [600] * 2 * batch + [250] * batch


def test_sides_share_one_call_and_repeated_rows() -> None:
    answerer, network = denoiser([7.5, 3.0])
    x, y = latents(), latents(seed=1)
    answers = answerer.answer({0: (Guided(x, 600), Unconditional(x, 600)), 1: (Guided(x, 600), Guided(y, 100))})
    assert len(network.calls) == 1
    assert answerer.evaluations == 2 * 5  # x: negative, views, inversion; y: negative, views
    negative, positive = eps(x, 600, NEGATIVE), eps(x, 600, 10.0, 11.0)
    assert torch.allclose(answers[0][0], negative + 7.5 * (positive - negative), atol=1e-5)
    assert torch.allclose(answers[1][0], negative + 3.0 * (positive - negative), atol=1e-5)
    assert torch.allclose(answers[0][1], eps(x, 600, INVERSION), atol=1e-6)


def test_equal_values_in_other_tensors_are_other_rows() -> None:
    answerer, _ = denoiser([7.5, 7.5])
    x = latents()
    answerer.answer({0: (Unconditional(x, 5),), 1: (Unconditional(x.clone(), 5),)})
    assert answerer.evaluations == 4


def test_one_prompt_for_inversion_and_negative_costs_one_row() -> None:
    answerer, network = denoiser([7.5], shared=True)
    x = latents()
    guided, plain = answerer.answer({0: (Guided(x, 600), Unconditional(x, 600))})[0]
    assert answerer.evaluations == 4 and network.calls[0][2] == [NEGATIVE, NEGATIVE, 10.0, 11.0]
    assert torch.allclose(plain, eps(x, 600, NEGATIVE), atol=1e-6) and not torch.equal(plain, guided)


@pytest.mark.parametrize(("scale", "prompts"), [(1.0, [10.0, 11.0]), (0.0, [NEGATIVE, NEGATIVE])])
def test_scales_one_and_zero_need_one_prompt_only(scale: float, prompts: list[float]) -> None:
    answerer, network = denoiser([scale])
    x = latents()
    (guided,) = answerer.answer({0: (Guided(x, 30),)})[0]
    assert network.calls[0][2] == prompts and torch.allclose(guided, eps(x, 30, *prompts), atol=1e-6)


@pytest.mark.parametrize("max_rows", [1, 3, 5, 100])
def test_a_limit_cuts_the_call_and_changes_nothing(max_rows: int) -> None:
    queries = {0: (Guided(latents(), 600), Unconditional(latents(seed=1), 250)), 1: (Guided(latents(seed=2), 10),)}
    whole, _ = denoiser([7.5, 2.0])
    cut, network = denoiser([7.5, 2.0], max_rows=max_rows)
    expected, given = whole.answer(queries), cut.answer(queries)
    assert all(torch.equal(a, b) for side in (0, 1) for a, b in zip(expected[side], given[side], strict=True))
    assert len(network.calls) == -(-10 // max_rows) and all(len(t) <= max_rows for _, t, _ in network.calls)
    assert cut.evaluations == whole.evaluations == 10


def alone(method: Distillation, answerer: Denoiser) -> Score:
    return advance_together([method], answerer.answer)[0]


@pytest.mark.parametrize("names", [("ism", "tsm"), ("sds", "tsm", "csd"), ("tsm",), ("ism", "ism")])
def test_sides_that_go_together_get_what_they_get_alone(names: tuple[str, ...]) -> None:
    variants = [Variant(method=name, delta_t=60 + 40 * i, delta_s=150) for i, name in enumerate(names)]  # type: ignore[arg-type]
    noise, x_0 = latents(seed=9), [latents(seed=i) for i in range(len(names))]

    def method(i: int) -> Distillation:
        return METHODS[variants[i].method](x_0[i], plan_steps(640, variants[i], Timesteps(), 0), noise, SCHEDULE, variants[i])

    together, network = denoiser([v.guidance_scale for v in variants])
    scores = advance_together([method(i) for i in range(len(names))], together.answer)
    rounds = []
    for i, variant in enumerate(variants):
        answerer, single = denoiser([variant.guidance_scale])
        assert torch.equal(alone(method(i), answerer).gradient, scores[i].gradient)
        rounds.append(len(single.calls))
    assert len(network.calls) == max(rounds)


def test_rounds_are_asked_in_lockstep() -> None:
    seen: list[dict[int, int]] = []

    def method(count: int) -> Distillation:
        for t in range(count):
            (answer,) = yield (Unconditional(latents(), t),)
            assert answer.shape == (2, 4, 3, 5)
        return Score(latents(), latents(), latents(), latents(), count)

    def answer(asked: Mapping[int, Queries]) -> dict[int, Predictions]:
        seen.append({side: queries[0].t for side, queries in asked.items()})
        return {side: tuple(query.x for query in queries) for side, queries in asked.items()}

    scores = advance_together([method(1), method(3)], answer)
    assert seen == [{0: 0, 1: 0}, {1: 1}, {1: 2}] and [score.t for score in scores] == [1, 3]
