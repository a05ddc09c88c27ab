"""The three networks of the embedded model and the folder that holds them, all of them diffusers' and transformers' own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from dreamerxl.miniature.language import MAX_TOKENS, make_tokenizer

WEIGHTS = Path(__file__).parent / "weights"
TEXT_WIDTH = 128
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class Networks:
    """Untied parts of a StableDiffusionPipeline."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    tokenizer: PreTrainedTokenizerFast


def make_vae() -> AutoencoderKL:
    """128 px to 16 x 16 latents of 16 channels: as many numbers as 4 channels at 32 x 32, at a fraction of the UNet's cost."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def make_unet() -> UNet2DConditionModel:
    """10 million parameters, 1.8 GFLOP an evaluation; attention at 8 x 8 only, where it is cheap."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(128, 192),
        layers_per_block=1,
        attention_head_dim=[4, 6],
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
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
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


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
    """Write a folder that ``StableDiffusionPipeline.from_pretrained`` loads; weights in half precision."""
    pipeline = StableDiffusionPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    pipeline.to(torch.float32)
