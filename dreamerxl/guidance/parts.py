"""The parts of a diffusion model read from a diffusers folder: UNet, VAE, tokenizers, text encoders, noise schedule.

Weights are read from .safetensors files only, and parts by known classes, never by the class names that a folder
brings along: both could run code, and the page lets visitors name a model.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamerxl.diffusion.schedule import Schedule, from_diffusers
from dreamerxl.errors import WeightsError
from dreamerxl.guidance.hub import amount

WEIGHTS = "*.safetensors"
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
ALLOW = "--allow-pickle-weights on the command line has them converted to .safetensors"
NAMED_WEIGHTS = re.compile(r"(diffusion_pytorch_)?model[^/]*\.safetensors(\.index(\.\w+)?\.json)?")
AGAIN = "Download it again."
SUPPORTED = "Stable Diffusion 1.x, 2.x and SDXL base models are supported."
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


@dataclass(eq=False, repr=False)
class Parts:
    """What a model is made of, on the CPU. SDXL has two tokenizers and text encoders, the others one."""

    unet: Any
    vae: Any
    tokenizers: list[Any]
    text_encoders: list[Any]
    schedule: Schedule
    zeros_for_empty: bool = False  # trained with zeros in place of the empty prompt's embedding

    @property
    def is_xl(self) -> bool:
        return len(self.text_encoders) == 2


def load_folder(folder: Path, label: str, dtype: torch.dtype, advice: str = AGAIN) -> Parts:
    """The parts in a diffusers folder. Raises WeightsError naming what is missing, cut short or of another kind.

    advice: what to do about a part that is missing, a sentence.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    index = read_index(folder, label)
    encoders = ["text_encoder", "text_encoder_2"] if index.get("text_encoder_2") else ["text_encoder"]
    _check_parts(folder, index, label, encoders, advice)

    def load(kind: Any, part: str, **more: Any) -> Any:
        return kind.from_pretrained(folder, subfolder=part, variant=variant(folder / part, dtype), use_safetensors=True, **more)

    return Parts(
        unet=load(UNet2DConditionModel, "unet", torch_dtype=dtype),
        vae=load(AutoencoderKL, "vae", torch_dtype=dtype),
        tokenizers=[_load_tokenizer(folder, part.replace("text_encoder", "tokenizer"), index) for part in encoders],
        text_encoders=[
            load(kind, part, dtype=dtype)
            for kind, part in zip((CLIPTextModel, CLIPTextModelWithProjection), encoders, strict=False)
        ],
        schedule=from_diffusers(read_json(folder / "scheduler" / "scheduler_config.json")),
        zeros_for_empty=bool(index.get("force_zeros_for_empty_prompt", len(encoders) == 2)),
    )


def load_vae(folder: Path, label: str, dtype: torch.dtype) -> Any:
    """The VAE in a folder: a model's own, in vae/, or one that stands alone."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    inner = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    if not (inner / "config.json").is_file():
        raise WeightsError(f"The folder {label} holds no VAE: it has neither config.json nor vae/config.json.")
    kind = read_json(inner / "config.json").get("_class_name")
    if kind != CLASSES["vae"]:
        raise WeightsError(f"The folder {label} holds {kind or 'something else'}, where {CLASSES['vae']} is needed.")
    check_weights(inner, label)
    return AutoencoderKL.from_pretrained(inner, variant=variant(inner, dtype), use_safetensors=True, torch_dtype=dtype)


def wanted_files(files: Sequence[str], parts: Sequence[str] = tuple(CLASSES)) -> list[str]:
    """Of a hub model's files: settings, tokenizers, and one set of .safetensors weights a part, fp16 where there is one.

    Empty where no part has weights that are read.
    """
    found, weighty = [], False
    for file in files:
        if file in ("model_index.json", "config.json") or file.startswith(("scheduler/", "tokenizer/", "tokenizer_2/")):
            found.append(file)
    for part in parts:
        inside = [f for f in files if f.rpartition("/")[0] == part]
        weights = [f for f in inside if NAMED_WEIGHTS.fullmatch(f.rpartition("/")[2])]
        halves = [f for f in weights if re.search(r"\.fp16[.-]", f)]
        chosen = halves or [f for f in weights if not re.search(r"non_ema|\.(fp|bf|ema)\w*[.-]", f)]
        found += [f for f in inside if f.rpartition("/")[2] == "config.json"] + chosen
        weighty = weighty or bool(chosen)
    return list(dict.fromkeys(found)) if weighty else []


def variant(part: Path, dtype: torch.dtype) -> str | None:
    """'fp16' where a part should be read from its half-precision files: half precision is asked for, or there is nothing else."""
    halves = any(part.glob("*.fp16*.safetensors"))
    whole = any(".fp16" not in file.name for file in part.glob(WEIGHTS))
    return "fp16" if halves and (dtype != torch.float32 or not whole) else None


def read_index(folder: Path, label: str) -> dict[str, Any]:
    """model_index.json of a diffusers folder."""
    if not (folder / "model_index.json").is_file():
        raise WeightsError(f"The folder {label} is not a diffusers model: it has no model_index.json.")
    index = read_json(folder / "model_index.json")
    if not isinstance(index, dict):
        raise WeightsError(f"The model_index.json of {label} is not a table of parts.")
    return index


def check_weights(part: Path, label: str, advice: str = AGAIN) -> None:
    """Refuse a part without .safetensors weights, with shards missing, or with a file that is cut short."""
    name = part.name
    files = sorted(part.glob(WEIGHTS))
    if not files:
        pickled = any(file.suffix in PICKLED for file in part.iterdir()) if part.is_dir() else False
        why = f"Its weights are pickled, which can run code and is not read; {ALLOW}." if pickled else advice
        raise WeightsError(f"The model {label} is incomplete: {name} has no .safetensors weights. {why}")
    for listing in part.glob("*.safetensors.index*.json"):
        shards = set(read_json(listing).get("weight_map", {}).values())
        lost = sorted(str(shard) for shard in shards if not (part / str(shard)).is_file())
        if lost:
            raise WeightsError(f"The model {label} is incomplete: {name}/{lost[0]} is missing. {advice}")
    for file in files:
        check_safetensors(file, f"{name}/{file.name} of the model {label}")


def check_safetensors(path: Path, label: str) -> dict[str, Any]:
    """The header of a .safetensors file (names, shapes, metadata), after comparing what it promises with the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise WeightsError(f"The file {label} is not a .safetensors file or has hardly begun to arrive; download it again.")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            promised = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise WeightsError(f"The file {label} is not a .safetensors file: its header cannot be read.") from None
    if size < promised:
        raise WeightsError(
            f"The file {label} is cut short: {amount(size)} of {amount(promised)} are there. Delete it and download it again."
        )
    return header


@contextmanager
def quietly() -> Iterator[None]:
    """diffusers and transformers draw a bar for each part that they read, and warn of what is checked here anyway."""
    import diffusers.utils.logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(library, library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, bars, verbosity in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _check_parts(folder: Path, index: dict[str, Any], label: str, encoders: list[str], advice: str) -> None:
    """Refuse other kinds of model and half-copied folders before anything is read."""
    for part in ("unet", "vae", *encoders):
        given = index.get(part)
        kind = given[1] if isinstance(given, list) and len(given) == 2 else None
        if kind != CLASSES[part]:
            raise WeightsError(
                f"The model {label} has {kind or 'nothing'} as its {part}, where {CLASSES[part]} is needed; {SUPPORTED}"
            )
        if not (folder / part / "config.json").is_file():
            raise WeightsError(f"The model {label} is incomplete: {part}/config.json is missing. {advice}")
        check_weights(folder / part, label, advice)
    for part in ("scheduler/scheduler_config.json", *(f"{p.replace('text_encoder', 'tokenizer')}" for p in encoders)):
        if not (folder / part).exists():
            raise WeightsError(f"The model {label} is incomplete: {part} is missing. {advice}")
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    channels = unet.get("in_channels"), unet.get("out_channels"), vae.get("latent_channels")
    if len(set(channels)) != 1:
        raise WeightsError(
            f"The model {label} takes {channels[0]} channels and gives {channels[1]}, and its VAE has {channels[2]}; "
            "inpainting, editing and upscaling models are not text-to-image models."
        )


def _load_tokenizer(folder: Path, part: str, index: dict[str, Any]) -> Any:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    is_clip = str((index.get(part) or [None, ""])[1]).startswith("CLIPTokenizer")
    return (CLIPTokenizer if is_clip else PreTrainedTokenizerFast).from_pretrained(folder, subfolder=part)
