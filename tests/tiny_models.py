"""Tiny random diffusion models in diffusers' own folder format, and runs that are small enough for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast

from dreamerxl.config import Settings, Variant
from dreamerxl.training.trainer import Trainer

WORDS = ("a", "red", "green", "blue", "duck", "chair", "bear", "photo", "of", "front", "side", "back", "view", "depth", "map")
LENGTH = 12
RESOLUTION = 32  # of the models
RENDERED = 40  # of the runs

ISM, TSM, SDS = Variant(method="ism"), Variant(method="tsm"), Variant(method="sds")


def make_stable_diffusion(folder: Path, prediction_type: str = "epsilon", word_level: bool = True) -> Path:
    """A Stable Diffusion folder of 32 px images and 4 x 16 x 16 latents; word-level or byte-pair tokenizer."""
    tokenizer = word_tokenizer() if word_level else clip_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipeline = StableDiffusionPipeline(
            unet=_unet(cross_attention_dim=32),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
            tokenizer=tokenizer,
            scheduler=_scheduler(prediction_type),
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def make_stable_diffusion_xl(folder: Path) -> Path:
    """An SDXL folder of 32 px images: two text encoders, pooled embedding and size conditioning."""
    tokenizer = clip_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        pipeline = StableDiffusionXLPipeline(
            unet=_unet(
                cross_attention_dim=64,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 24,
            ),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, projection_dim=24)).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            scheduler=_scheduler("epsilon"),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; case and punctuation do not count, other words become <unk>."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel

    words = {word: index for index, word in enumerate(("<pad>", "<unk>", "<bos>", "<eos>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", words["<eos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=LENGTH,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind with single letters only."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list(",.0123456789")
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def settings(variants: tuple[Variant, ...] = (ISM, TSM), **changes: Any) -> Settings:
    """A pair of 60 Gaussians in 40 px images, two views; dotted names as keyword arguments with __ for the dot."""
    small = {
        "prompt": "a red duck",
        "iterations": 40,
        "variants": [dataclasses.asdict(variant) for variant in variants],
        "views.batch": 2,
        "views.resolution": RENDERED,
        "views.fovy_min_deg": 20,
        "initialization.count": 60,
        "initialization.scale": 0.08,
        "initialization.opacity": 0.4,
        "densification.enabled": False,
        "losses.depth_ratio": 0,
    }
    return Settings().override({**small, **{name.replace("__", "."): value for name, value in changes.items()}})


def values(trainer: Trainer) -> list[dict[str, Tensor]]:
    return [{name: param.detach().clone() for name, param in side.params.items()} for side in trainer.sides]


def equal(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return len(a) == len(b) and all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def _text_config(tokenizer: CLIPTokenizer | PreTrainedTokenizerFast, **more: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _unet(**more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        **more,  # type: ignore[arg-type]
    ).eval()


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
        scaling_factor=1.3,
    ).eval()


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        timestep_spacing="leading",
    )
