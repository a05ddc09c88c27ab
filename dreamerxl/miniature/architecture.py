"""The three networks of the embedded model and the folder that holds them, all of them diffusers' and transformers' own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from dreamerxl.miniature.language import MAX_TOKENS, make_tokenizer

WEIGHTS = Path(__file__).parent / "weights"
TEXT_WIDTH = 128
LATENT_CHANNELS = 16

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 128),
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": 128,
    "mid_block_add_attention": False,
}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (128, 192, 224),
    "layers_per_block": 1,
    "attention_head_dim": [4, 6, 7],
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 16,
    "use_linear_projection": True,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Networks:
    """The parts of a StableDiffusionPipeline; Any, because the libraries' annotations are narrower than what they take."""

    vae: Any  # AutoencoderKL
    text_encoder: Any  # CLIPTextModel
    unet: Any  # UNet2DConditionModel
    tokenizer: Any  # PreTrainedTokenizerFast


def make_vae() -> AutoencoderKL:
    """128 px to 16 x 16 latents of 16 channels: as many numbers as 4 channels at 32 x 32, at a fraction of the UNet's cost."""
    return AutoencoderKL(**VAE)


def make_unet() -> UNet2DConditionModel:
    """16 million parameters, 1.8 GFLOP an evaluation; attention at 8 x 8 and 4 x 4 only, where it is cheap."""
    return UNet2DConditionModel(**UNET)


def make_text_encoder(tokenizer: Any) -> CLIPTextModel:
    """A two-layer CLIP text model over the tokenizer's own words."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, predicting the noise."""
    return DDIMScheduler(**SCHEDULER)


def make_networks(seed: int) -> Networks:
    """Fresh networks with random weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer()
        return Networks(make_vae(), make_text_encoder(tokenizer), make_unet(), tokenizer)


def load_networks(folder: Path = WEIGHTS) -> Networks:
    """The trained networks in single precision."""
    return Networks(
        AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32),
        PreTrainedTokenizerFast.from_pretrained(folder, subfolder="tokenizer"),
    )


def save_networks(networks: Networks, folder: Path) -> None:
    """Write a folder that ``StableDiffusionPipeline.from_pretrained`` loads, weights in half precision; changes no network."""
    halves = {name: copy.deepcopy(getattr(networks, name)).to(torch.float16) for name in ("vae", "text_encoder", "unet")}
    parts: dict[str, Any] = {
        **halves,
        "tokenizer": networks.tokenizer,
        "scheduler": make_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    StableDiffusionPipeline(**parts).save_pretrained(folder)
