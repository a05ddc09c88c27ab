"""The training set: every object in every colour from every side, drawn again identically from a seed."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerxl.cameras import cameras_at
from dreamerxl.guidance.prompts import view_weights
from dreamerxl.miniature.language import COLORS, PROMPTING
from dreamerxl.miniature.objects import OBJECTS, Jitter
from dreamerxl.miniature.render import render

SIZE = 128  # pixels
BATCH = 64  # renders drawn together; part of the recipe, since one generator serves a batch


@dataclass(frozen=True)
class Renders:
    """Pictures and what they show."""

    images: Tensor  # [N, 3, 128, 128] uint8
    depths: Tensor  # [N, 1, 128, 128] uint8
    objects: Tensor  # [N] index into OBJECTS
    colors: Tensor  # [N] index into COLORS
    views: Tensor  # [N, 5] weights over front, left, back, right, overhead

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Renders:
        """A copy on a device."""
        return Renders(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def draw_batch(name: str, index: int, seed: int, device: torch.device, compiled: bool = False) -> Renders:
    """Batch ``index`` of one object: random colours, proportions, cameras and backgrounds, all from the seed."""
    which = list(OBJECTS).index(name)
    entropy = np.random.SeedSequence([seed, which, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy) >> 1)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(BATCH, generator=generator)

    colors = torch.randint(len(COLORS), (BATCH,), generator=generator)
    palette = torch.tensor(list(COLORS.values()))
    tint = 0.08 * (torch.rand(BATCH, 3, generator=generator) - 0.5)
    azimuth, elevation = uniform(-180, 180), uniform(-20, 65)
    cameras = cameras_at(azimuth, elevation, uniform(3.5, 4.6), uniform(33, 36), SIZE, SIZE)
    kind, plain = torch.rand(BATCH, 1, generator=generator), torch.rand(BATCH, 3, generator=generator)
    background = torch.where(kind < 0.45, torch.ones(3), torch.where(kind < 0.6, torch.zeros(3), plain))
    parts = OBJECTS[name]((palette[colors] + tint).clamp(0, 1).to(device), Jitter(BATCH, generator, device))
    images, depths = render(parts, cameras.to(device), background.to(device), compiled=compiled)
    return Renders(
        images=(images * 255).round().byte(),
        depths=(depths * 255).round().byte(),
        objects=torch.full((BATCH,), which),
        colors=colors,
        views=view_weights(PROMPTING, azimuth, elevation),
    )


def draw_object(name: str, count: int, seed: int, device: str, path: Path) -> Path:
    """Draw ``count`` pictures of one object into an .npz file."""
    torch._dynamo.config.recompile_limit = 64
    compiled = device.startswith("cuda")
    batches = [draw_batch(name, i, seed, torch.device(device), compiled) for i in range(-(-count // BATCH))]
    arrays: dict[str, Any] = {
        key: torch.cat([getattr(b, key).cpu() for b in batches])[:count].numpy() for key in Renders.__dataclass_fields__
    }
    np.savez(path, **arrays)
    return path


def draw(count: int, seed: int, device: str = "cpu", workers: int = 10) -> Renders:
    """``count`` pictures of each object, one process an object: compiling its distance function is most of the work."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(draw_object, name, count, seed, device, Path(folder) / f"{name}.npz") for name in OBJECTS]
        files = [np.load(job.result()) for job in jobs]
        return Renders(**{key: torch.from_numpy(np.concatenate([f[key] for f in files])) for key in Renders.__dataclass_fields__})
