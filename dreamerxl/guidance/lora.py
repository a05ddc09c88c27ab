"""LoRA files, added to a model's weights once and for all: W + scale * (alpha / rank) B A.

diffusers' own loader reads them, whichever training program wrote them. They are fused before anything is captured or
compiled, so that a run with LoRAs is as fast as one without. Only .safetensors files are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamerxl.errors import SettingsError, WeightsError
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.guidance.parts import Parts, check_safetensors

ACCEPTED = "'style.safetensors' or 'style.safetensors@0.8, other.safetensors' is accepted"
LARGEST_SCALE = 10.0


@dataclass(frozen=True)
class Lora:
    """A file and what its change of the weights is multiplied by."""

    path: Path
    scale: float = 1.0


def parse_loras(text: str) -> tuple[Lora, ...]:
    """The files that weights.loras lists: 'a.safetensors, b.safetensors@0.5'. Raises SettingsError."""
    found = []
    for entry in (part.strip() for part in text.split(",") if part.strip()):
        name, _, after = entry.rpartition("@")
        name, number = (name, after) if name else (entry, "1")
        try:
            scale = float(number)
        except ValueError:
            name, scale = entry, 1.0  # a name with an @ in it
        if not name.endswith(".safetensors"):
            raise SettingsError(f"weights.loras has the entry {entry[:80]!r}, which is no .safetensors file; {ACCEPTED}.")
        if not (math.isfinite(scale) and abs(scale) <= LARGEST_SCALE):
            bounds = f"-{LARGEST_SCALE:g} to {LARGEST_SCALE:g}"
            raise SettingsError(f"weights.loras has the scale {number[:20]} for {name[-60:]}; {bounds} is accepted.")
        found.append(Lora(Path(name), scale))
    return tuple(found)


def apply_loras(parts: Parts, loras: Sequence[Lora], label: str, say: Say = silent) -> None:
    """Fuse LoRAs into a model's UNet and text encoders, in place. Raises WeightsError for one that does not fit."""
    if not loras:
        return
    pipeline = _pipeline(parts)
    for lora in loras:
        say(f"Adding the LoRA {lora.path.name}.")
        _check(lora.path)
        try:
            pipeline.load_lora_weights(
                str(lora.path.parent), weight_name=lora.path.name, use_safetensors=True, local_files_only=True
            )
            fitting = bool(pipeline.get_active_adapters())
        except (RuntimeError, ValueError, KeyError) as error:
            raise _misfit(lora, label) from error
        if not fitting:
            raise _misfit(lora, label)
        pipeline.fuse_lora(lora_scale=lora.scale)
        pipeline.unload_lora_weights()


def _check(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"The LoRA file {path.name} does not exist; weights.loras names files on the machine of this program.")
    header = check_safetensors(path, path.name)
    if not any("lora" in key for key in header):
        raise WeightsError(f"The file {path.name} is not a LoRA: none of its weights is named as one.")


def _misfit(lora: Lora, label: str) -> WeightsError:
    return WeightsError(
        f"The LoRA {lora.path.name} does not fit the model {label}: it was trained for another kind of model, or its layout is "
        "not known. SDXL needs a LoRA for SDXL, Stable Diffusion 2.x one for 2.x, 1.x one for 1.x."
    )


def _pipeline(parts: Parts) -> Any:
    """The parts as diffusers' loader wants them; the parts themselves are changed."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    shared: dict[str, Any] = {
        "vae": parts.vae,
        "unet": parts.unet,
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),  # sampling is not its business here
        "text_encoder": parts.text_encoders[0],
        "tokenizer": parts.tokenizers[0],
    }
    if parts.is_xl:
        second = {"text_encoder_2": parts.text_encoders[1], "tokenizer_2": parts.tokenizers[1]}
        return StableDiffusionXLPipeline(**shared, **second, add_watermarker=False)
    return StableDiffusionPipeline(**shared, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # type: ignore
