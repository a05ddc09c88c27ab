"""One run on several cards: shares of rows and pictures, gathered as one card would have answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ISM, TSM, settings, values
from torch import Tensor

from dreamerxl.config import Settings, Weights
from dreamerxl.errors import DeviceError
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.cards import share
from dreamerxl.guidance.conditioning import join
from dreamerxl.guidance.models import check_cards, load_guidance, pick_others
from dreamerxl.runs.prepare import Preparation
from dreamerxl.training.memory import PROFILES, need_bytes
from dreamerxl.training.trainer import Trainer

CPU = torch.device("cpu")


def spread(folder: Path, others: int, device: str = "cpu") -> Guidance:
    """A model and as many copies of it: on other cards, or on the CPU, where sharing is the same."""
    guidance = load_guidance(str(folder), device, Weights(precision="float32"))
    places = [CPU if device == "cpu" else torch.device("cuda", index + 1) for index in range(others)]
    guidance.others = tuple(guidance.copy_on(place) for place in places)
    return guidance


@dataclass
class Told:
    """A card that says what was done in which order."""

    name: str
    log: list[str]
    device: torch.device = field(default=CPU)


@pytest.mark.parametrize(("rows", "cards"), [(1, 3), (2, 2), (5, 2), (5, 3), (7, 7), (3, 8)])
def test_rows_come_back_in_their_order(rows: int, cards: int) -> None:
    log: list[str] = []
    used = [Told(str(index), log) for index in range(cards)]
    x, t = torch.arange(rows * 2.0).view(rows, 2), torch.arange(rows)

    def work(card: Told, own: Tensor, times: Tensor) -> Tensor:
        log.append(f"{card.name}:{len(own)}")
        return own * 10 + times[:, None]

    assert torch.equal(share(used, work, x, t), x * 10 + t[:, None])
    counts = [int(line.split(":")[1]) for line in log]
    assert sum(counts) == rows and len(counts) == min(rows, cards) and max(counts) - min(counts) <= 1


def test_every_share_is_sent_before_the_first_card_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    send = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *rest, **more: (log.append("send"), send(self, *rest, **more))[1])

    def work(card: Told, own: Tensor) -> Tensor:
        log.append("work")
        return own + 0

    share([Told("a", log), Told("b", log), Told("c", log)], work, torch.zeros(6, 2))
    assert log == ["send"] * 3 + ["work"] * 3 + ["send"] * 3


@pytest.mark.parametrize("kind", ["sd", "sd-v", "sdxl"])
@pytest.mark.parametrize("others", [1, 2])
def test_answers_are_those_of_one_card(kind: str, others: int, model_folders: dict[str, Path]) -> None:
    alone, shared = load_guidance(str(model_folders[kind]), "cpu"), spread(model_folders[kind], others)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 40, 40, generator=generator)
    weight = torch.randn(4, 4, 16, 16, generator=generator)
    found = []
    for guidance in (alone, shared):
        pixels = images.clone().requires_grad_()
        latents = guidance.encode(pixels)
        (gradient,) = torch.autograd.grad(latents, pixels, weight)
        prompts = join([guidance.embed(["a red duck"]).repeated(4), guidance.embed([""]).repeated(4), guidance.embed(["a bear"])])
        rows = torch.cat([latents.detach(), weight, weight[:1]])
        eps = guidance.predict(rows, torch.tensor([9, 100, 200, 300, 400, 500, 600, 700, 999]), prompts)
        found.append((latents.detach(), gradient, eps))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_a_pair_learns_the_same_scenes(model_folders: dict[str, Path]) -> None:
    config = settings((ISM, TSM), losses__depth_ratio=0.5)
    alone = Trainer(config, load_guidance(str(model_folders["sd"]), "cpu"))
    shared = Trainer(config, spread(model_folders["sd"], 1))
    before = values(alone)
    for _ in range(4):
        one, two = alone.step(), shared.step()
        assert one.evaluations == two.evaluations
    moved = [(ours["means"] - old["means"]).abs().max() for ours, old in zip(values(alone), before, strict=True)]
    apart = [(ours["means"] - theirs["means"]).abs().max() for ours, theirs in zip(values(alone), values(shared), strict=True)]
    assert all(gap < 0.01 * way for gap, way in zip(apart, moved, strict=True))


def test_a_copy_holds_its_own_weights_and_none_is_trained(model_folders: dict[str, Path]) -> None:
    guidance = spread(model_folders["sdxl"], 1)
    (other,) = guidance.others
    assert other.unet is not guidance.unet and other.vae is not guidance.vae and not other.others
    assert not other.text_encoders and len(guidance.text_encoders) == 2
    names = [name for name, _ in guidance.unet.named_parameters()]
    assert names == [name for name, _ in other.unet.named_parameters()]
    assert not any(part.requires_grad for part in (*other.unet.parameters(), *other.vae.parameters()))


def test_more_cards_than_there_are_are_refused() -> None:
    check_cards(CPU, None)
    check_cards(CPU, 1)
    with pytest.raises(DeviceError, match="cards is 2, but the run is on the CPU"):
        check_cards(CPU, 2)
    with pytest.raises(DeviceError, match="cards is 3"):
        Preparation()(Settings(prompt="a red duck", model="embedded", device="cpu", cards=3))


@pytest.mark.parametrize(
    ("wanted", "weights", "names", "expected"),
    [
        (None, 3_000_000_000, "aaab", [0, 2]),  # every one of its kind but itself
        (None, 3_000_000_000, "aaaa", [0, 2, 3]),
        (None, 1_000_000, "aaaa", []),  # a small model waits for launches
        (2, 1_000_000, "aaaa", [0]),
        (4, 1_000_000, "abcd", [0, 2, 3]),
        (1, 3_000_000_000, "aaaa", []),
    ],
)
def test_which_cards_work_along(
    wanted: int | None, weights: int, names: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: names[at if isinstance(at, int) else at.index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (79, 80))
    assert [card.index for card in pick_others(torch.device("cuda", 1), wanted, weights)] == expected


def test_a_card_that_others_use_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: "a")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (40 if at.index == 1 else 79, 80))
    assert [card.index for card in pick_others(torch.device("cuda", 0), None, 3_000_000_000)] == [2]


def test_each_card_needs_less_memory(model_folders: dict[str, Path]) -> None:
    one, two = load_guidance(str(model_folders["sd"]), "cpu"), spread(model_folders["sd"], 1)
    config = settings((ISM, TSM), views__batch=16)
    assert need_bytes(config, two, PROFILES[0]) < need_bytes(config, one, PROFILES[0])
    assert need_bytes(config, two, PROFILES[0]) == need_bytes(
        settings((TSM,), views__batch=16, initialization__count=120), one, PROFILES[0]
    )


def test_a_run_is_prepared_for_its_cards(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards that are the CPU twice: the limits of a small card hold for each of them."""
    monkeypatch.setattr("dreamerxl.runs.prepare.check_cards", lambda device, wanted: None)
    monkeypatch.setattr("dreamerxl.runs.prepare.pick_others", lambda device, wanted, weights: [CPU] * (wanted - 1))
    monkeypatch.setattr("dreamerxl.runs.prepare.fit", lambda settings, guidance: (PROFILES[-1], ()))
    preparation = Preparation()
    config = settings(model=str(model_folders["sd"]), device="cpu", cards=2)
    trainer: Any = preparation(config).trainer
    (other,) = trainer.guidance.others
    assert trainer.guidance.encode_at_once == other.encode_at_once == PROFILES[-1].encode_at_once
    assert trainer.max_rows == 2 * PROFILES[-1].max_rows
    again: Any = preparation(config.override({"seed": 3})).trainer
    assert again.guidance is trainer.guidance
    fewer: Any = preparation(config.override({"cards": 1})).trainer
    assert not fewer.guidance.others and fewer.guidance is not trainer.guidance


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA cards")
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_two_real_cards_answer_as_one(kind: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 without TF32: kernels for other numbers of rows differ by more in less."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = settings((ISM, TSM), losses__depth_ratio=0.5, views__batch=4)
    alone, shared = (Trainer(config, spread(model_folders[kind], others, "cuda")) for others in (0, 1))
    one, two = alone.step(), shared.step()
    assert all(part.device.index == 1 for part in shared.guidance.others[0].unet.parameters())
    for ours, theirs in zip(two.sides, one.sides, strict=True):
        assert torch.allclose(ours.render, theirs.render, atol=1e-5) and ours.render.device.index == 0
        assert abs(ours.grad_norm - theirs.grad_norm) < 1e-3 * theirs.grad_norm
        assert (ours.x0_hat - theirs.x0_hat).norm() < 1e-3 * theirs.x0_hat.norm()
    for _ in range(5):
        shared.step()
    assert pick_others(torch.device("cuda"), 2, 0) == [torch.device("cuda", 1)]
