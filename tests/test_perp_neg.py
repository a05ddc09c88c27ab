"""Perp-Neg against its definition: perpendicular to the prompt's direction, plain guidance where nothing pushes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dreamerxl.config import Prompting
from dreamerxl.distillation.queries import Guided, Unconditional
from dreamerxl.guidance.conditioning import Conditioning
from dreamerxl.guidance.denoiser import Denoiser
from dreamerxl.guidance.perp_neg import Away, away_from, guide, perpendicular
from dreamerxl.guidance.prompts import embed_prompt, phrase


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(eps_empty: Tensor, eps_prompt: Tensor, eps_away: list[Tensor], weights: Tensor, scale: float) -> Tensor:
    """The paper's formula, one picture and one negative prompt at a time, in float64."""
    pictures = []
    for b in range(len(eps_empty)):
        empty, prompt = eps_empty[b].double(), eps_prompt[b].double() - eps_empty[b].double()
        change = prompt.clone()
        for index, eps in enumerate(eps_away):
            negative = eps[b].double() - empty
            inner = (negative * prompt).sum() / (prompt * prompt).sum()
            change -= weights[b, index].double() * (negative - inner * prompt)
        pictures.append(empty + scale * change)
    return torch.stack(pictures).float()


@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_definition(batch: int) -> None:
    empty, prompt, first, second = (random(batch, 4, 6, 5, seed=seed) for seed in range(4))
    weights = random(batch, 2, seed=9).abs()
    ours = guide(empty, prompt, [first, second], weights, 7.5)
    torch.testing.assert_close(ours, by_hand(empty, prompt, [first, second], weights, 7.5), atol=1e-5, rtol=1e-5)


def test_the_perpendicular_part_is_perpendicular_and_completes_the_whole() -> None:
    delta, direction = random(3, 4, 8, 8, seed=1), random(3, 4, 8, 8, seed=2)
    part = perpendicular(delta, direction)
    inner = (part * direction).flatten(1).sum(1) / (part.flatten(1).norm(dim=1) * direction.flatten(1).norm(dim=1))
    assert inner.abs().max() < 1e-6
    along = delta - part
    torch.testing.assert_close(perpendicular(along, direction), torch.zeros_like(part), atol=1e-5, rtol=0)
    torch.testing.assert_close(perpendicular(2.5 * direction, direction), torch.zeros_like(part), atol=1e-5, rtol=0)
    assert torch.equal(perpendicular(delta, torch.zeros_like(direction)), delta)
    assert bool(perpendicular(delta, 1e-20 * direction).isfinite().all())


def test_nothing_of_the_prompt_is_taken_away() -> None:
    """Whatever is pushed away from, the change keeps its whole length along the prompt's direction."""
    empty, prompt, away = random(2, 4, 8, 8), random(2, 4, 8, 8, seed=1), random(2, 4, 8, 8, seed=2)
    change = (guide(empty, prompt, [away], torch.full((2, 1), 5.0), 3.0) - empty).flatten(1)
    direction = (prompt - empty).flatten(1)
    torch.testing.assert_close((change * direction).sum(1), 3.0 * direction.square().sum(1), rtol=1e-4, atol=0)


def test_without_weight_it_is_plain_guidance() -> None:
    empty, prompt, away = random(2, 4, 8, 8), random(2, 4, 8, 8, seed=1), random(2, 4, 8, 8, seed=2)
    plain = empty + 7.5 * (prompt - empty)
    assert torch.equal(guide(empty, prompt, [away, away], torch.zeros(2, 2), 7.5), plain)


# --- which sides a view is pushed away from ---

FRONT, LEFT, BACK, RIGHT = range(4)


@pytest.mark.parametrize(
    ("azimuth", "first", "second"),  # (direction, weight), by the released code's rule
    [
        (0, (FRONT, 0), (LEFT, 2)),
        (45, (FRONT, 2 * math.exp(-1)), (LEFT, 2 * math.exp(-5))),
        (80, (FRONT, 2 * math.exp(-2 / 9)), (LEFT, 0)),
        (-45, (FRONT, 2 * math.exp(-1)), (RIGHT, 2 * math.exp(-5))),
        (90, (LEFT, 0), (FRONT, 2)),
        (-90, (FRONT, 2), (RIGHT, 0)),
        (135, (LEFT, math.exp(-5)), (FRONT, 2)),
        (-135, (RIGHT, math.exp(-5)), (FRONT, 2)),
        (180, (RIGHT, 1), (FRONT, 2)),
        (179, (LEFT, math.exp(-10 / 90)), (FRONT, 2)),
        (360 + 45, (FRONT, 2 * math.exp(-1)), (LEFT, 2 * math.exp(-5))),
    ],
)
def test_weights_by_azimuth(azimuth: float, first: tuple[int, float], second: tuple[int, float]) -> None:
    indices, weights = away_from(Prompting(perp_neg=True), torch.tensor([float(azimuth)]))
    assert indices[0].tolist() == [first[0], second[0]]
    assert weights[0].tolist() == pytest.approx([first[1], second[1]], abs=1e-6)


@given(st.floats(-720, 720), st.floats(0, 20), st.floats(0, 100), st.floats(0, 100))
def test_weights_are_finite_and_never_pull(azimuth: float, strength: float, front: float, side: float) -> None:
    prompting = Prompting(perp_neg=True, perp_neg_weight=strength, perp_neg_front_decay=front, perp_neg_side_decay=side)
    indices, weights = away_from(prompting, torch.tensor([azimuth]))
    assert bool((weights >= 0).all()) and bool((weights <= strength + 1e-5).all()) and indices[0, 0] != indices[0, 1]


# --- in the batched answer ---


class Letters:
    """Embeds a text as the sum of its bytes."""

    zeros_for_empty = False

    def embed(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.tensor([[[float(sum(text.encode()))]] for text in prompts]))


class Network:
    """A prediction that depends on latents, timestep and text, and counts its rows."""

    def __init__(self) -> None:
        self.rows = 0

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        self.rows += len(latents)
        text = conditioning.hidden[:, 0, 0].view(-1, 1, 1, 1) / 1000
        ramp = torch.linspace(-1, 1, latents[0].numel()).view_as(latents[0])
        return latents * timesteps.view(-1, 1, 1, 1) / 1000 + torch.sin(text * (2 + ramp))


def answered(prompting: Prompting, scale: float) -> tuple[Tensor, Tensor, int]:
    embeddings = embed_prompt(Letters(), "a duck", prompting)
    azimuth, elevation = torch.tensor([30.0, -120.0]), torch.zeros(2)
    network, x = Network(), random(2, 4, 3, 3)
    denoiser = Denoiser(
        network,
        views=embeddings.conditioning(azimuth, elevation),
        negative=embeddings.negative,
        inversion=None,
        guidance_scales=[scale],
        away=embeddings.away(azimuth, elevation),
    )
    guided, plain = denoiser.answer({0: (Guided(x, 400), Unconditional(x, 400))})[0]
    return guided, plain, network.rows


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_denoiser_answers_by_the_definition(scale: float) -> None:
    prompting = Prompting(perp_neg=True, negative_prompt="ugly", inversion_prompt="ugly")
    guided, plain, rows = answered(prompting, scale)
    assert rows == 2 * 4
    network, x, t = Network(), random(2, 4, 3, 3), torch.tensor([400, 400])

    def eps(*texts: str) -> Tensor:
        return network.predict(x, t, Letters().embed(list(texts)))

    front, left, back, right = (phrase("a duck", view) for view in ("front view", "side view", "back view", "side view"))
    views = Conditioning((Letters().embed([front, right]).hidden * 2 + Letters().embed([left, back]).hidden) / 3)
    prompt, empty = network.predict(x, t, views), eps("ugly", "ugly")
    _, weights = away_from(prompting, torch.tensor([30.0, -120.0]))
    expected = by_hand(empty, prompt, [eps(front, right), eps(left, front)], weights, scale)
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, empty)


def test_off_it_costs_nothing_and_changes_nothing() -> None:
    plain, _, rows = answered(Prompting(), 7.5)
    assert rows == 2 * 2
    weightless, _, _ = answered(Prompting(perp_neg=True, perp_neg_weight=0), 7.5)
    assert torch.equal(plain, weightless)
    assert answered(Prompting(perp_neg=True), 0)[2] == 2
    assert not torch.allclose(plain, answered(Prompting(perp_neg=True), 7.5)[0])


def test_the_overhead_phrase_takes_the_push_with_it() -> None:
    embeddings = embed_prompt(Letters(), "a duck", Prompting(perp_neg=True, overhead="from above"))
    away = embeddings.away(torch.tensor([45.0, 45.0, 45.0]), torch.tensor([0.0, 45.0, 70.0]))
    assert isinstance(away, Away)
    torch.testing.assert_close(away.weights[1], away.weights[0] / 2)
    assert away.weights[2].tolist() == [0, 0] and len(away.first) == len(away.second) == 3
