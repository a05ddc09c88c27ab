"""The random draws of one iteration, shared by every side of a run.

They come from a generator that is seeded by (seed, iteration) alone, so an iteration draws the same whether the run
came here without a break, was resumed, or has other sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamerxl.cameras import Cameras, sample_background, sample_cameras
from dreamerxl.config import Settings
from dreamerxl.distillation.timesteps import draw_t
from dreamerxl.training.stages import stage_of


@dataclass(frozen=True, eq=False)
class Draw:
    """What every side sees in one iteration: B views with their backgrounds, t, noise, and colour or depth."""

    cameras: Cameras
    background: Tensor  # [B, 3] in 0..1
    t: int
    noise: Tensor  # [B, C, h, w]
    depth: bool


def generator_for(seed: int, iteration: int) -> torch.Generator:
    """A CPU generator for one iteration of one run."""
    state = np.random.SeedSequence((seed, iteration)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def draw(
    settings: Settings, iteration: int, schedule_length: int, latent_shape: tuple[int, int, int], device: torch.device
) -> Draw:
    """The draws of an iteration, in a fixed order, made on the CPU whatever the device. latent_shape (C, h, w)."""
    generator = generator_for(settings.seed, iteration)
    cameras = sample_cameras(settings.views, iteration, generator)
    background = sample_background(settings.views, settings.views.batch, generator)
    t = draw_t(settings.timesteps, iteration, schedule_length, generator)
    depth = stage_of(settings.losses, iteration).depth
    by_chance = torch.rand((), generator=generator).item() < settings.losses.depth_ratio  # drawn in every stage
    depth = by_chance if depth is None else depth
    noise = torch.randn(settings.views.batch, *latent_shape, generator=generator)
    return Draw(cameras.to(device), background.to(device), t, noise.to(device), depth)
