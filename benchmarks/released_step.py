"""The guidance step as the paper's released code takes it, to compare with: plain modules, one evaluation after the other.

A float16 UNet and a float32 VAE, eager; every call of the network by itself; eps(x_s) evaluated twice, once on the way to
x_t and once on the way to x_mu. The released code also empties PyTorch's memory cache after every call, which is left
out here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.score import omega
from dreamerxl.distillation.timesteps import Steps
from dreamerxl.guidance.conditioning import Conditioning


def released_step(
    unet: Any,
    vae: Any,
    schedule: Schedule,
    images: Tensor,
    noise: Tensor,
    steps: Steps,
    views: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
) -> Tensor:
    """Gradient of the loss for images [B, 3, H, W] in 0..1. noise [B, C, h, w]; views, negative: B rows."""
    pixels = images.detach().requires_grad_()
    latents = vae.encode(pixels * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    eps = _evaluation(unet)
    with torch.no_grad():
        x_s = schedule.add_noise(latents, noise, steps.inversion[0])
        for here, there in pairwise(steps.inversion):
            x_s = ddim_step(schedule, x_s, eps(x_s, here, negative), here, there)
        x_t = ddim_step(schedule, x_s, eps(x_s, steps.s, negative), steps.s, steps.t)
        x_mu = ddim_step(schedule, x_s, eps(x_s, steps.s, negative), steps.s, steps.mu)
        both = Conditioning(*(torch.cat([a, b]) for a, b in zip(_parts(negative), _parts(views), strict=True)))
        eps_negative, eps_cond = eps(torch.cat([x_t, x_t]), steps.t, both).chunk(2)
        eps_t = eps_negative + guidance_scale * (eps_cond - eps_negative)
        gradient = omega(schedule, steps.t, "released") * (eps_t - eps(x_mu, steps.mu, negative))
    return torch.autograd.grad(latents, pixels, gradient)[0]


def _evaluation(unet: Any) -> Callable[[Tensor, int, Conditioning], Tensor]:
    def eps(x: Tensor, t: int, prompts: Conditioning) -> Tensor:
        hidden, pooled, time_ids = (part.to(unet.dtype) for part in _parts(prompts))
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return unet(x.to(unet.dtype), t, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False)[0].float()

    return eps


def _parts(prompts: Conditioning) -> tuple[Tensor, Tensor, Tensor]:
    assert prompts.pooled is not None and prompts.time_ids is not None
    return prompts.hidden, prompts.pooled, prompts.time_ids
