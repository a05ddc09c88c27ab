"""SDXL at its full size with random weights: nothing is downloaded, and a step costs what it costs with the real ones.

``tiny`` keeps the architecture and shrinks the widths, so that the benchmark's own code can be tried on a CPU.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.conditioning import Conditioning

HIDDEN, POOLED, TOKENS = 2048, 1280, 77
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


class RandomGuidance(Guidance):
    """The adapter over random parts; a prompt's embedding is random too, drawn from its letters."""

    def embed(self, prompts: list[str]) -> Conditioning:
        hidden, pooled = [], []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
            hidden.append(torch.randn(TOKENS, self.unet.config.cross_attention_dim, generator=generator))
            pooled.append(torch.randn(POOLED, generator=generator))
        sizes = [self.resolution, self.resolution, 0, 0, self.resolution, self.resolution]
        parts = torch.stack(hidden), torch.stack(pooled), torch.tensor([sizes] * len(prompts))
        return Conditioning(*(part.to(self.device, self.dtype) for part in parts))


def random_guidance(device: torch.device, dtype: torch.dtype, tiny: bool = False) -> RandomGuidance:
    """SDXL's architecture behind the product's adapter."""
    return RandomGuidance(
        label="SDXL with random weights",
        unet=random_unet(device, dtype, tiny),
        vae=random_vae(device, dtype, tiny),
        tokenizers=[],
        text_encoders=[nn.Identity(), nn.Identity()],  # two of them make it SDXL
        schedule=Schedule((1 - BETAS).cumprod(0).float()),
        device=device,
        dtype=dtype,
    )


def random_unet(device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Any:
    """UNet2DConditionModel as SDXL configures it."""
    channels, heads, depth = ((32, 64, 64), [2, 4, 4], [1, 1, 2]) if tiny else ((320, 640, 1280), [5, 10, 20], [1, 2, 10])
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8 if tiny else 128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            cross_attention_dim=64 if tiny else HIDDEN,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=POOLED + 6 * 256,
            use_linear_projection=True,
            block_out_channels=channels,
            attention_head_dim=heads,  # type: ignore[arg-type]  # the number of heads, whatever it is called
            transformer_layers_per_block=depth,  # type: ignore[arg-type]
        )
    return _randomized(unet, device, dtype)


def random_vae(device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Any:
    """AutoencoderKL as SDXL configures it."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * 4,  # type: ignore[arg-type]
            block_out_channels=(32, 32, 64, 64) if tiny else (128, 256, 512, 512),  # type: ignore[arg-type]
            layers_per_block=2,
            latent_channels=4,
            sample_size=64 if tiny else 1024,
            scaling_factor=0.13025,
        )
    return _randomized(vae, device, dtype)


@torch.no_grad()
def _randomized(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights that keep a signal's size: normal, 1 / fan-in of variance; norms as they begin; no biases."""
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(float("norm" in name and name.endswith("weight")))
    return model.eval().requires_grad_(False)
