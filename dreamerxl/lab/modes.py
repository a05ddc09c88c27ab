"""VSD against SDS in the plane: particles that are to become a known distribution, by the methods' own code.

    particles  N points as latents [N, 2, 1, 1], all started close together
    target     a Mixture; its exact prediction stands for the diffusion model, without guidance (w = 1)
    eps_phi    the target's prediction plus a small network of (x, t), which starts at 0 as a LoRA does and is trained
               along on the particles themselves: E |eps_phi(x_t, t) - noise|^2
SDS pulls every particle to where the noised target is likeliest, whatever the others do. VSD subtracts what the particles'
own distribution predicts, and is at rest when that distribution is the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dreamerxl.config import Variant
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.queries import Queries
from dreamerxl.distillation.timesteps import Steps
from dreamerxl.guidance.denoiser import advance_together
from dreamerxl.lab.toy import Mixture, schedule

LOWEST, HIGHEST = 20, 980  # timesteps, as ProlificDreamer draws them


class Correction(nn.Module):
    """What is added to the target's prediction: a network of points [N, 2] and a timestep, 0 at first."""

    def __init__(self, generator: torch.Generator, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2)])
        for layer in self.layers:
            bound = 1 / math.sqrt(layer.in_features)  # pyright: ignore[reportArgumentType]
            for weights in layer.parameters():
                nn.init.uniform_(weights, -bound, bound, generator=generator)
        for weights in self.layers[-1].parameters():
            nn.init.zeros_(weights)
        self.double()

    def forward(self, x: Tensor, t: int) -> Tensor:
        level = t / len(schedule())
        told = x.new_tensor([level, level**2, *(f(k * math.pi * level) for k in (1, 2) for f in (math.sin, math.cos))])
        h = torch.cat([x, told.expand(len(x), -1)], 1)
        for layer in self.layers[:-1]:
            h = nn.functional.silu(layer(h))
        return self.layers[-1](h)


@dataclass(frozen=True)
class ModesSettings:
    """How the particles are moved."""

    method: Literal["sds", "vsd"] = "vsd"
    particles: int = 256
    iterations: int = 1500
    rate: float = 0.02  # of the particles, by Adam
    learning_rate: float = 2e-3  # of eps_phi
    lessons: int = 2  # training steps of eps_phi in an iteration
    seed: int = 0


def four_modes() -> Mixture:
    """Four Gaussians of unequal weight at the corners of a square."""
    corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return Mixture(corners, torch.full((4,), 0.2, dtype=torch.float64), weights)


def distil_particles(target: Mixture, settings: ModesSettings) -> Tensor:
    """Where the particles [N, 2] end."""
    generator = torch.Generator().manual_seed(settings.seed)
    table, variant = schedule(), Variant(method=settings.method, weight="uniform")
    x_0 = 0.1 * torch.randn(settings.particles, 2, generator=generator, dtype=torch.float64)
    x_0.requires_grad_()
    correction = Correction(generator)
    mover = torch.optim.Adam([x_0], lr=settings.rate, betas=(0.9, 0.99))
    learner = torch.optim.Adam(correction.parameters(), lr=settings.learning_rate)

    def noised(t: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(settings.particles, 2, generator=generator, dtype=torch.float64)
        return noise, table.add_noise(x_0.detach()[:, :, None, None], noise[:, :, None, None], t)[:, :, 0, 0]

    def answer(asked: dict[int, Queries]) -> dict[int, tuple[Tensor, ...]]:
        answers = []
        for query in asked[0]:
            x = query.x[:, :, 0, 0]
            eps = target.eps(x, table.alpha(query.t))
            answers.append((eps + correction(x, query.t) if query.particles else eps)[:, :, None, None])
        return {0: tuple(answers)}

    for iteration in range(settings.iterations):
        t = _draw_t(generator)
        noise, _ = noised(t)
        with torch.no_grad():
            steps = Steps(t, t, t, (0, t))
            method = METHODS[settings.method](x_0.detach()[:, :, None, None], steps, noise[:, :, None, None], table, variant)
            (score,) = advance_together([method], answer)  # pyright: ignore[reportArgumentType]
        mover.param_groups[0]["lr"] = settings.rate * (1 - iteration / settings.iterations) ** 0.5
        x_0.grad = score.gradient[:, :, 0, 0]
        mover.step()
        for _ in range(settings.lessons if settings.method == "vsd" else 0):
            t = _draw_t(generator)
            noise, x_t = noised(t)
            loss = (target.eps(x_t, table.alpha(t)) + correction(x_t, t) - noise).square().mean()
            learner.zero_grad()
            loss.backward()
            learner.step()
    return x_0.detach()


def _draw_t(generator: torch.Generator) -> int:
    return int(torch.randint(LOWEST, HIGHEST + 1, (), generator=generator))


@dataclass(frozen=True)
class Coverage:
    """How particles share out the modes of a target."""

    shares: tuple[float, ...]  # of the particles, whose nearest mode it is
    spread: float  # root mean square distance from the nearest mode, in its standard deviations (2^0.5 for the target)


def coverage(target: Mixture, points: Tensor) -> Coverage:
    """What points [N, 2] make of the modes."""
    apart = torch.cdist(points, target.means)
    nearest = apart.argmin(1)
    shares = torch.bincount(nearest, minlength=len(target.means)) / len(points)
    ratio = apart.min(1).values / target.deviations[nearest]
    return Coverage(tuple(shares.tolist()), ratio.square().mean().sqrt().item())
