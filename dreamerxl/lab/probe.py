"""What a method says of one scene under several noises: its pseudo ground truths and gradients, and how far they spread.

    x_0         [B, C, h, w], latents of the scene's renders by B cameras, without gradient
    noises      [K, B, C, h, w]
    x0_hats     [K, B, C, h, w], the pseudo ground truths: x_0 as x_t and the guided prediction there imply it
    targets     [K, B, C, h, w], where the gradient points: x_0 - sqrt((1 - alpha_t) / alpha_t) (eps_t - eps_reference)
    gradients   [K, B, C, h, w]
Everything else is held: the scene, the views, t. So what spreads comes from the noise alone (Figure 2). ISM and TSM reach x_t
alike, so of one scene their pseudo ground truths are the same, whatever gamma; what they differ in is the target, which is
the pseudo ground truth itself for SDS. A trajectory that starts at x_0 itself (variants.inversion_start 'clean') uses no
noise, and nothing spreads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamerxl.cameras import Cameras, cameras_at
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import activate
from dreamerxl.guidance.denoiser import Denoiser, advance_together

RADIUS = 4.0
ELEVATION_DEG = 15.0
AZIMUTHS_DEG = (30.0, 210.0)
TIMESTEPS = (250, 500, 750)
NOISES = 4


@dataclass(frozen=True, eq=False)
class Answers:
    """One side's answers to K noises at one t."""

    t: int
    x_0: Tensor  # [B, C, h, w]
    x0_hats: Tensor  # [K, B, C, h, w]
    targets: Tensor  # [K, B, C, h, w]
    gradients: Tensor  # [K, B, C, h, w]

    @property
    def spread(self) -> float:
        """The spread of the pseudo ground truths, in latent units."""
        return spread(self.x0_hats)

    @property
    def target_spread(self) -> float:
        """The same of what the gradients point to."""
        return spread(self.targets)

    @property
    def gradient_spread(self) -> float:
        """The same of the gradients, as a share of the root mean square of their mean."""
        return spread(self.gradients) / max(self.gradients.mean(0).square().mean().sqrt().item(), 1e-30)


def probe_cameras(resolution: int, fovy_deg: float, azimuths_deg: Sequence[float] = AZIMUTHS_DEG) -> Cameras:
    """The views of a probe, the same for every scene."""
    return cameras_at(torch.tensor(list(azimuths_deg)), ELEVATION_DEG, RADIUS, fovy_deg, resolution, resolution)


@torch.no_grad()
def probe(trainer: Any, cameras: Cameras, t: int, count: int = NOISES, seed: int = 0) -> list[Answers]:
    """The answers of every side of a trainer, about its own scene, under the same noises."""
    guidance, settings = trainer.guidance, trainer.settings
    cameras = cameras.to(guidance.device)
    prompts = trainer.embeddings
    views = prompts.conditioning(cameras.azimuth_deg, cameras.elevation_deg)
    white = torch.ones(len(cameras), 3, device=guidance.device)
    latents = []
    for side in trainer.sides:
        render = rasterize(activate(side.params), cameras.viewmats, cameras.Ks, cameras.width, cameras.height, white)
        latents.append(guidance.encode(render.rgb.movedim(-1, 1)))
    noises = torch.randn(count, *latents[0].shape, generator=torch.Generator().manual_seed(seed)).to(latents[0])
    denoiser = Denoiser(
        guidance,
        views=views,
        negative=prompts.negative,
        inversion=None if prompts.inversion_is_negative else prompts.inversion,
        guidance_scales=[side.variant.guidance_scale for side in trainer.sides],
        max_rows=trainer.max_rows,
        away=prompts.away(cameras.azimuth_deg, cameras.elevation_deg),
        particles=lambda x, t: trainer.particles.predict(x, t, views, cameras),
    )
    plans = [plan_steps(t, side.variant, settings.timesteps, settings.iterations) for side in trainer.sides]
    scores = []
    for noise in noises:
        methods = [
            METHODS[side.variant.method](x_0, plan, noise, guidance.schedule, side.variant)
            for side, x_0, plan in zip(trainer.sides, latents, plans, strict=True)
        ]
        scores.append(advance_together(methods, denoiser.answer))
    answers = []
    for index, x_0 in enumerate(latents):
        own = [of_sides[index] for of_sides in scores]
        x0_hats = torch.stack([guidance.schedule.predict_x0(score.x_t, score.eps_t, t) for score in own])
        lam = guidance.schedule.noise(t) / guidance.schedule.signal(t)
        targets = torch.stack([x_0 - lam * (score.eps_t - score.eps_reference) for score in own])
        answers.append(Answers(t, x_0, x0_hats, targets, torch.stack([score.gradient for score in own])))
    return answers


def spread(values: Tensor) -> float:
    """Root mean square distance of values [K, ...] from their mean, an element."""
    return (values - values.mean(0)).square().mean().sqrt().item()
