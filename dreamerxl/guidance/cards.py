"""One model on several cards of a machine, which go through an iteration in step.

    images [B, ...], rows [R, ...]    cut into a share for each card, in order: of a pair, a card has about one side's
    answers                           gathered on the first card
Scenes, renders and optimisers stay on the first card, where they take a few hundredths of an iteration with SDXL. The cards
work at the same time because a launch waits for nothing, if every share is sent before the first card begins: a copy
queues behind what its card was told before. The backward goes the same way, autograd having a thread for each card.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn


class Card(Protocol):
    """What works on a share: a guidance with everything it needs on its device."""

    device: torch.device


AnyCard = TypeVar("AnyCard", bound=Card)


def share(cards: Sequence[AnyCard], work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``work(card, *inputs)`` [R, ...] of inputs [R, ...], each card on its share of the rows, on the first card's device."""
    used = cards[: len(inputs[0])]
    if len(used) == 1:
        return work(used[0], *inputs)
    cut = [part.tensor_split(len(used)) for part in inputs]
    shares = [tuple(part[index].to(card.device) for part in cut) for index, card in enumerate(used)]
    answers = []
    for card, own in zip(used, shares, strict=True):
        with current(card.device):
            answers.append(work(card, *own))
    return torch.cat([answer.to(used[0].device) for answer in answers])


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels and recordings of what is inside go to that card."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def copied(module: Any, device: torch.device) -> Any:
    """A module with its weights on another device; nothing passes through memory twice."""
    memo: dict[int, Any] = {id(part): nn.Parameter(part.detach().to(device), requires_grad=False) for part in module.parameters()}
    memo |= {id(part): part.to(device) for part in module.buffers()}
    return copy.deepcopy(module, memo)
