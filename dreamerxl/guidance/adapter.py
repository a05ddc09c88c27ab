"""One adapter over the parts of a Stable Diffusion or SDXL model.

    images       [B, 3, H, W] in 0..1; other sizes than the model's own are resized on the way in
    latents      [B, C, h, w] float32, scaled as the UNet expects them
    timesteps    [R] whole numbers in 0..999, one for each row
Stable Diffusion 1.5, 2.1 (v-prediction), SDXL and the embedded model differ in data, not in code paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.guidance import words
from dreamerxl.guidance.cards import copied, share
from dreamerxl.guidance.conditioning import Conditioning
from dreamerxl.guidance.encoder import FrozenEncoder, is_supported
from dreamerxl.guidance.fast_unet import Compiled, accelerate
from dreamerxl.guidance.graphs import CudaGraphs, StaticBatches
from dreamerxl.guidance.group_norm import HAS_TRITON

ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
KEPT_TEXTS = 8  # lists of texts whose embeddings are kept; one of SDXL's takes 4 MB
WORTH_COMPILING = 500_000_000  # parameters; a small UNet is recorded before a compiler would have begun


@dataclass(eq=False, repr=False)
class Guidance:
    """A diffusion model behind five verbs: encode, decode, embed, predict, and what it can read of a prompt.

    Text encoders wait on the CPU and visit the device only while they embed. On CUDA the UNet and the VAE's encoder run
    as fast forms of themselves: fused kernels, compiled blocks, one recorded graph for each number of rows.
    """

    label: str
    unet: Any
    vae: Any
    tokenizers: list[Any]
    text_encoders: list[Any]
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    repertoire: words.Repertoire = words.ANYTHING  # what a model of few words can be asked for
    zeros_for_empty: bool = False  # trained with zeros where there is no prompt (SDXL)
    notes: tuple[str, ...] = ()  # sentences for the visitor about how it was loaded
    encode_at_once: int | None = None  # images; more are encoded in turns and once again for the backward. None: no limit
    others: tuple[Guidance, ...] = ()  # the same model on other cards, each of which takes its share (see cards)
    _embedded: dict[tuple[str, ...], Conditioning] = field(init=False, default_factory=dict)  # of the runs before, by their texts

    def __post_init__(self) -> None:
        for part in (self.unet, self.vae, *self.text_encoders):
            part.requires_grad_(False).eval()
        layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.unet.to(self.device, memory_format=layout)
        self.vae.to(self.device, memory_format=layout)
        self.schedule = self.schedule.to(self.device)

    @property
    def is_xl(self) -> bool:
        """Whether the UNet takes SDXL's pooled embedding and sizes."""
        return len(self.text_encoders) == 2

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return self.unet.config.in_channels

    @property
    def latent_size(self) -> int:
        """Side h = w of the latents that the model was trained on."""
        return self.unet.config.sample_size

    @property
    def resolution(self) -> int:
        """Side of the images that the model was trained on, in pixels."""
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Latents [B, C, h, w] of images [B, 3, H, W] in 0..1: the mean of the VAE's posterior, with gradient."""
        if images.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return share((self, *self.others), Guidance._encode, images)

    def _encode(self, images: Tensor) -> Tensor:
        mean = self._posterior_mean((images * 2 - 1).to(self.vae.dtype)).float()
        return (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def copy_on(self, device: torch.device) -> Guidance:
        """The same model on another card, to encode and to predict there. To be made before the first prediction, which
        changes the UNet for the card that it is on."""
        unet, vae = copied(self.unet, device), copied(self.vae, device)
        return replace(self, unet=unet, vae=vae, tokenizers=[], text_encoders=[], device=device, others=())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1 of latents [B, C, h, w]."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return (self.vae.decode(latents.to(self.vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Conditioning:
        """One row of conditioning for each prompt, as the model's own diffusers pipeline embeds it. The latest
        are kept: runs that follow each other often have the same texts."""
        key = tuple(prompts)
        if key not in self._embedded:
            if len(self._embedded) >= KEPT_TEXTS:
                del self._embedded[next(iter(self._embedded))]
            self._embedded[key] = self._embed(prompts)
        return self._embedded[key]

    def _embed(self, prompts: list[str]) -> Conditioning:
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            texts = [words.readable(tokenizer, prompt) for prompt in prompts]
            length = tokenizer.model_max_length
            tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            mask = tokens.attention_mask.to(self.device) if getattr(encoder.config, "use_attention_mask", False) else None
            encoder.to(self.device)
            out = encoder(tokens.input_ids.to(self.device), attention_mask=mask, output_hidden_states=self.is_xl)
            if self.is_xl:
                hidden.append(out.hidden_states[-2])
                pooled = out[0]  # of the last encoder, which projects
            else:
                hidden.append(out[0])
            encoder.to("cpu")
        sizes = [self.resolution, self.resolution, 0, 0, self.resolution, self.resolution]
        return Conditioning(
            torch.cat(hidden, -1).to(self.dtype),
            pooled.to(self.dtype) if pooled is not None else None,
            torch.tensor([sizes] * len(prompts), device=self.device, dtype=self.dtype) if self.is_xl else None,
        )

    @torch.no_grad()
    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise predictions eps [R, C, h, w] for latents [R, C, h, w], each row at its own timestep [R] and prompt."""
        prompts = [part for part in (conditioning.hidden, conditioning.pooled, conditioning.time_ids) if part is not None]
        return share((self, *self.others), Guidance._predict, latents, timesteps, *prompts)

    def _predict(self, *rows: Tensor) -> Tensor:
        return self._network(*rows)

    def _posterior_mean(self, images: Tensor) -> Tensor:
        """Mean of the VAE's posterior, images in -1..1."""
        if self._encoder is None:
            return self.vae.encode(images).latent_dist.mean
        return self._encoder(images, self.encode_at_once)

    @cached_property
    def _encoder(self) -> FrozenEncoder | None:
        fast = self.device.type == "cuda" and HAS_TRITON and is_supported(self.vae)
        return FrozenEncoder(self.vae) if fast else None

    @cached_property
    def _network(self) -> Callable[..., Tensor]:
        """eps of rows; made at the first prediction, when the weights are final."""
        if self.device.type != "cuda":
            return self._evaluate
        torch.backends.cudnn.benchmark = True  # shapes are few and stay
        evaluate = self._evaluate_on_card
        if HAS_TRITON:
            accelerate(self.unet)
            if sum(part.numel() for part in self.unet.parameters()) > WORTH_COMPILING:
                evaluate = Compiled(self.unet, evaluate)
        return StaticBatches(evaluate, CudaGraphs())

    def _evaluate_on_card(self, *rows: Tensor) -> Tensor:
        with sdpa_kernel(ATTENTION, set_priority=True):
            return self._evaluate(*rows)

    def _evaluate(self, latents: Tensor, timesteps: Tensor, hidden: Tensor, *added: Tensor) -> Tensor:
        conditions = dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None
        output = self.unet(
            latents.to(self.dtype), timesteps, encoder_hidden_states=hidden, added_cond_kwargs=conditions, return_dict=False
        )[0].float()
        return self.schedule.to_eps(output, latents, timesteps)

    def known_words(self) -> list[str]:
        """Every word that the model can read; empty where it reads any text."""
        return words.known_words(self.tokenizers[0])

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the model cannot read; embedding leaves them out."""
        return words.unknown_words(self.tokenizers[0], prompt)

    def check_prompt(self, prompt: str, negative_prompt: str = "") -> list[str]:
        """Sentences about the prompts for the visitor. Raises SettingsError for a prompt that cannot be used."""
        tokenizer, repertoire = self.tokenizers[0], self.repertoire
        notices = words.check_prompt(tokenizer, prompt, repertoire)
        return notices + words.check_negative_prompt(tokenizer, negative_prompt, repertoire)
