"""A trainer with the contract of the real one and none of its cost: a coloured ball that takes a step by shrinking."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from dreamerxl.cameras import cameras_at
from dreamerxl.config import Settings, Variant
from dreamerxl.gaussians.scene import Params, make_params
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.runs.worker import Prepared
from dreamerxl.training.checkpoint import State

SIZE = 32
CAMERAS = cameras_at(torch.tensor([20.0, 200.0]), 10.0, 4.0, 34.4, SIZE + 8, SIZE)


def ball(count: int = 200, seed: int = 0) -> Params:
    """Gaussians on a unit ball's inside, coloured by direction, with a long red arm towards the front (+x)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    means = 0.5 * directions
    means[: count // 5] = torch.tensor([0.9, 0.0, 0.0]) * torch.rand(count // 5, 1, generator=generator)
    rgbs = 0.5 + 0.4 * directions
    rgbs[: count // 5] = torch.tensor([0.9, 0.1, 0.1])
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    return make_params(means, quats, torch.full((count, 3), 0.06), torch.full((count,), 0.9), rgbs)


@dataclass
class FakeTrainer:
    """Counts its steps; ``fail_at`` raises in that step, ``gate`` (if any) is awaited in each."""

    settings: Settings
    seconds: float = 0.0
    fail_at: int | None = None
    error: Exception = field(default_factory=lambda: ValueError("the sky fell"))
    gate: threading.Semaphore | None = None
    iteration: int = 0

    def __post_init__(self) -> None:
        self.sides = [SimpleNamespace(variant=variant, params=ball(seed=index)) for index, variant in self._variants()]
        self.replaced: list[tuple[int, int, Variant]] = []
        self.slowed: list[float] = []

    def _variants(self) -> list[tuple[int, Variant]]:
        return list(enumerate(self.settings.variants))

    def step(self) -> Any:
        if self.gate is not None:
            assert self.gate.acquire(timeout=20)
        if self.fail_at == self.iteration:
            raise self.error
        time.sleep(self.seconds)
        self.iteration += 1
        level = math.exp(-self.iteration / 50)
        with torch.no_grad():
            for side in self.sides:
                side.params["means"].mul_(0.999)
        sides = [self._report(side, level) for side in self.sides]
        draw = SimpleNamespace(depth=False, cameras=CAMERAS)
        return SimpleNamespace(iteration=self.iteration - 1, draw=draw, sides=sides, evaluations=8)

    def _report(self, side: Any, level: float) -> Any:
        gradient = level * torch.ones(1, 3, SIZE, SIZE + 8)
        return SimpleNamespace(
            render=torch.full((1, SIZE, SIZE + 8, 3), 0.25),
            disparity=torch.linspace(0, 1, SIZE + 8).repeat(1, SIZE, 1),
            x0_hat=torch.zeros(1, 4, SIZE // 8, SIZE // 8),
            gradient=gradient,
            clipped=gradient / 4,
            grad_norm=float(gradient.norm()),
            clipped_norm=float(gradient.norm()) / 4,
            clipped_share=1.0,
            latent_norm=level,
            count=len(side.params["means"]),
            t=500,
            s=420,
            mu=444,
        )

    def replace_variant(self, index: int, variant: Variant) -> None:
        self.sides[index].variant = variant
        self.replaced.append((self.iteration, index, variant))

    def slow_down(self, factor: float) -> None:
        self.slowed.append(factor)

    def state_dict(self) -> State:
        tensors = {f"{i}.{name}": value.detach() for i, side in enumerate(self.sides) for name, value in side.params.items()}
        return State(tensors, {"iteration": self.iteration})

    def load_state_dict(self, state: State) -> None:
        self.iteration = state.values["iteration"]
        for index, side in enumerate(self.sides):
            side.params = {name: torch.nn.Parameter(state.tensors[f"{index}.{name}"].clone()) for name in side.params}


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Grey pictures of eight times the latents' size."""
    height, width = latents.shape[-2:]
    return torch.full((len(latents), 3, height * 8, width * 8), 0.5)


def fake_make_trainer(seconds: float = 0.0, **options: Any) -> Callable[[Settings], Prepared]:
    """``make_trainer`` for a RunManager; the trainers that it made are in its attribute ``made``."""

    def make(settings: Settings, say: Say = silent) -> Prepared:
        trainer = FakeTrainer(settings, seconds, **options)
        made.append(trainer)
        return Prepared(trainer, decode, "a fake model", "cpu", ("A notice.",))

    made: list[FakeTrainer] = []
    make.made = made  # type: ignore[attr-defined]
    return make
