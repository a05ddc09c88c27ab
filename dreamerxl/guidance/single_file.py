"""A Stable Diffusion or SDXL checkpoint in one .safetensors file, read without a connection.

Such a file holds weights under the names of the original code and nothing else: no settings, no tokenizer. Which model
it is shows in its header; the settings of each are in ``layouts/``, with the merges that CLIP's tokenizer is made of
(OpenAI, MIT), and diffusers converts the names.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dreamerxl.diffusion.schedule import from_diffusers
from dreamerxl.errors import WeightsError
from dreamerxl.guidance.parts import SUPPORTED, Parts, check_safetensors, read_json

LAYOUTS = Path(__file__).resolve().parent / "layouts"
MERGES = LAYOUTS / "clip_merges.txt"
NAMES = {"sd15": "Stable Diffusion 1.x", "sd21": "Stable Diffusion 2.x", "sdxl": "SDXL"}
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT: dict[str, tuple[str, ...]] = {
    "sd15": ("cond_stage_model.transformer.",),
    "sd21": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
V_TELLTALE = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_SPREAD = 0.09  # ComfyUI's rule for 2.x: this bias spreads more in the checkpoints that predict v
BASE_SIZE = 64  # latents of Stable Diffusion 2.x that predicts eps; those that predict v were trained at 96

Prediction = Literal["auto", "epsilon", "v_prediction"]


@dataclass(frozen=True)
class Contents:
    """What the header of a checkpoint says."""

    layout: str  # a folder of layouts/
    prediction: str
    zero_snr: bool  # the schedule was rescaled to end in pure noise
    latent_size: int | None  # where it differs from the layout's


def load_file(path: Path, label: str, dtype: torch.dtype, prediction: Prediction = "auto") -> Parts:
    """The parts in a checkpoint. Raises WeightsError for other kinds of file and for those that lack a part."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    contents = inspect(path, label, prediction)
    is_xl, layout = contents.layout == "sdxl", LAYOUTS / contents.layout
    # SDXL's second encoder and Stable Diffusion 2.x were trained with '!', whose number is 0, behind the text
    tokenizers = {"sd15": [clip_tokenizer()], "sd21": [clip_tokenizer("!")], "sdxl": [clip_tokenizer(), clip_tokenizer("!")]}
    made = tokenizers[contents.layout]
    more = {"tokenizer_2": made[1], "add_watermarker": False} if is_xl else {"safety_checker": None}
    kind: Any = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    try:
        pipeline = kind.from_single_file(
            str(path), config=str(layout), tokenizer=made[0], torch_dtype=dtype, local_files_only=True, **more
        )
    except (NotImplementedError, RuntimeError, ValueError, KeyError) as error:  # weights that are missing or of other shapes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"The file {label} is not a whole {NAMES[contents.layout]} checkpoint, weights are missing or have other shapes "
            f"({lines[0][:200].rstrip('.')}). {SUPPORTED}"
        ) from error
    unfilled = [
        f"{part}.{name}"
        for part in ("unet", "vae", "text_encoder", *(("text_encoder_2",) if is_xl else ()))
        for name, value in getattr(pipeline, part).named_parameters()
        if value.is_meta
    ]
    if unfilled:
        raise WeightsError(
            f"The file {label} is not a whole {NAMES[contents.layout]} checkpoint, {len(unfilled)} weights are missing "
            f"(first {unfilled[0]}). {SUPPORTED}"
        )
    if contents.latent_size is not None:
        pipeline.unet.register_to_config(sample_size=contents.latent_size)
    schedule = read_json(layout / "scheduler" / "scheduler_config.json")
    schedule |= {"prediction_type": contents.prediction, "rescale_betas_zero_snr": contents.zero_snr}
    return Parts(
        unet=pipeline.unet,
        vae=pipeline.vae,
        tokenizers=made,
        text_encoders=[pipeline.text_encoder, pipeline.text_encoder_2] if is_xl else [pipeline.text_encoder],
        schedule=from_diffusers(schedule),
        zeros_for_empty=is_xl,
    )


def load_vae_file(path: Path, label: str, own: Any, dtype: torch.dtype) -> Any:
    """A VAE in one .safetensors file, with the settings of the VAE ``own`` that it replaces."""
    import tempfile

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    keys = check_safetensors(path, label)
    if not any(key.endswith("encoder.conv_in.weight") for key in keys):
        raise WeightsError(f"The file {label} is not a VAE: it has no encoder.conv_in weights.")
    with tempfile.TemporaryDirectory() as folder:  # from_single_file takes its settings from a folder
        own.save_config(folder)
        return AutoencoderKL.from_single_file(str(path), config=folder, torch_dtype=dtype, local_files_only=True)


def inspect(path: Path, label: str, prediction: Prediction = "auto") -> Contents:
    """Which model a checkpoint is and what its network predicts, from its header. Raises WeightsError for other files."""
    header = check_safetensors(path, label)
    metadata: dict[str, str] = header.pop("__metadata__", None) or {}

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in header)

    if not has(UNET):
        lora = any("lora" in key for key in header)
        kind = "a LoRA, which goes into weights.loras" if lora else "not a Stable Diffusion checkpoint"
        raise WeightsError(f"The file {label} is {kind}: it has no {UNET[:-1]} weights.")
    layout = next((name for name in ("sdxl", "sd21", "sd15") if has(TEXT[name][-1])), None)
    lacks = [what for what, there in (("text encoder", layout), ("VAE", has(VAE))) if not there]
    lacks += ["first text encoder"] if layout == "sdxl" and not has(TEXT["sdxl"][0]) else []
    if layout is None or lacks:
        raise WeightsError(
            f"The file {label} has no {' and no '.join(lacks)} that is known; a whole checkpoint is needed. {SUPPORTED}"
        )
    channels = header[FIRST_LAYER]["shape"][1] if FIRST_LAYER in header else None
    if channels != 4:
        raise WeightsError(
            f"The file {label} takes {channels} channels, where 4 are needed; inpainting, editing and upscaling models are not "
            "text-to-image models."
        )
    said = {"v": "v_prediction", "epsilon": "epsilon"}.get(metadata.get("modelspec.prediction_type", ""))
    found = said or ("v_prediction" if "v_pred" in header or (layout == "sd21" and _spreads(path, header)) else "epsilon")
    chosen = found if prediction == "auto" else prediction
    return Contents(layout, chosen, "ztsnr" in header, BASE_SIZE if layout == "sd21" and chosen == "epsilon" else None)


def _spreads(path: Path, header: dict[str, Any]) -> bool:
    from safetensors import safe_open

    if V_TELLTALE not in header:
        return True  # as Stable Diffusion 2.1
    with safe_open(path, "pt") as file:
        return file.get_tensor(V_TELLTALE).float().std(unbiased=False).item() > V_SPREAD


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """CLIP's byte-pair tokenizer, with the token that fills up a short text."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    pairs: Any = list(merges)  # the library's annotation speaks of lines, its code takes pairs
    return CLIPTokenizer(vocab=dict(vocabulary), merges=pairs, model_max_length=77, pad_token=pad)


@functools.cache
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges in CLIP's order: bytes, bytes at the end of a word, what the merges join, start and end."""
    lines = MERGES.read_text(encoding="utf-8").split("\n")
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(printable))]  # a stand-in for each byte that cannot be printed
    letters = [*map(chr, printable), *others]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}, merges
