"""Names of diffusion models and what they stand for: the embedded one, folders, the hub, single files.

Stable Diffusion 1.x, 2.x (v-prediction too), SDXL and the embedded model are loaded alike, then changed as the settings
ask: another VAE, LoRAs, another precision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dreamerxl.config import Weights
from dreamerxl.errors import DeviceError, DreamerError, WeightsError
from dreamerxl.guidance.adapter import WORTH_COMPILING, Guidance
from dreamerxl.guidance.hub import Say, cached_folder, fetch, silent
from dreamerxl.guidance.lora import apply_loras, parse_loras
from dreamerxl.guidance.parts import ALLOW, PICKLED, Parts, load_folder, load_vae, quietly, wanted_files
from dreamerxl.guidance.single_file import load_file, load_vae_file
from dreamerxl.hardware import has_matrix_units

EMBEDDED = Path(__file__).resolve().parent.parent / "miniature" / "weights"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
FP16_VAE = "madebyollin/sdxl-vae-fp16-fix"
KINDS = "Accepted: auto, embedded, a diffusers folder, a hub id like 'owner/name', or a .safetensors file."
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class ModelChoice:
    """Which model a name stands for, where it is read from, and why it was taken."""

    kind: Literal["folder", "hub", "file"]
    source: str
    label: str
    reason: str


def pick_device(name: str) -> torch.device:
    """The device that 'auto', 'cpu' or 'cuda' stands for. Raises DeviceError where there is no CUDA card."""
    if name == "cuda" and not torch.cuda.is_available():
        build = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch finds no usable card"
        raise DeviceError(f"device is 'cuda', but {build}; 'auto' or 'cpu' is accepted here.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def check_cards(device: torch.device, wanted: int | None) -> None:
    """Raises DeviceError where there are not as many cards as Settings.cards asks for."""
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if wanted is not None and wanted > there:
        where = f"this machine has {there}" if device.type == "cuda" else "the run is on the CPU, which counts as one"
        raise DeviceError(f"cards is {wanted}, but {where}; at most {there} is accepted here, or no number.")


def pick_others(device: torch.device, wanted: int | None, weights: int) -> list[torch.device]:
    """The cards that work beside ``device`` on a model of so many weights. wanted: as Settings.cards; None takes those of
    the same kind that nobody uses, where the model is large enough to gain."""
    if device.type != "cuda" or (wanted is None and weights < WORTH_COMPILING):
        return []
    first = torch.cuda.current_device() if device.index is None else device.index
    others = [torch.device("cuda", index) for index in range(torch.cuda.device_count()) if index != first]
    return others[: wanted - 1] if wanted is not None else [other for other in others if _is_idle_like(first, other)]


def _is_idle_like(first: int, other: torch.device) -> bool:
    free, total = torch.cuda.mem_get_info(other)
    return torch.cuda.get_device_name(first) == torch.cuda.get_device_name(other) and free > 0.9 * total


def resolve(name: str, device: torch.device | str) -> ModelChoice:
    """The model that a name stands for, without loading it. Raises WeightsError for names that stand for none."""
    shown = _shown(name)
    if not name.strip() or len(name) > 1000 or not name.isprintable():
        raise WeightsError(f"The model name {shown} cannot be used. {KINDS}")
    if name == "auto":
        return _automatic(torch.device(device))
    if name == "embedded":
        return ModelChoice("folder", str(EMBEDDED), "the embedded model", "The embedded model was asked for.")
    if "\\" in name or "://" in name or name.startswith("~") or ".." in name.split("/"):
        raise WeightsError(f"The model name {shown} is neither a plain path nor a hub id. {KINDS}")
    path = Path(name)
    if path.is_dir():
        return ModelChoice("folder", name, path.name, f"The folder {shown} was asked for.")
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise WeightsError(f"The model file {shown} does not exist. {KINDS}")
        return ModelChoice("file", name, path.name, f"The file {shown} was asked for.")
    if path.is_file():
        how = f"; {ALLOW}" if path.suffix in PICKLED else ""
        raise WeightsError(
            f"The model file {shown} is not a .safetensors file; other formats can run code and are not read{how}."
        )
    if HUB_ID.fullmatch(name):
        return ModelChoice("hub", name, name, f"The hub model {name} was asked for.")
    raise WeightsError(f"There is no model {shown}: no such folder or file, and not a hub id. {KINDS}")


def _automatic(device: torch.device) -> ModelChoice:
    if device.type != "cuda":
        return ModelChoice("folder", str(EMBEDDED), "the embedded model", "The embedded model, because there is no CUDA card.")
    if not _is_cached(SDXL):
        reason = f"The embedded model, because the SDXL weights ({SDXL}) are not in the local hub cache."
        return ModelChoice("folder", str(EMBEDDED), "the embedded model", reason)
    return ModelChoice("hub", SDXL, "SDXL", "SDXL, because there is a CUDA card and its weights are in the local hub cache.")


def is_local(choice: ModelChoice) -> bool:
    """Whether a model can be loaded without a download, as far as a glance at the disk tells."""
    return choice.kind != "hub" or _is_cached(choice.source)


def _is_cached(repository: str) -> bool:
    folder = cached_folder(repository)
    return folder is not None and all(any((folder / part).glob("*.safetensors")) for part in ("unet", "vae"))


def load_guidance(
    name: str,
    device: torch.device | str = "auto",
    weights: Weights | None = None,
    say: Say = silent,
    *,
    download: bool = True,
) -> Guidance:
    """The guidance that a name stands for: 'auto', 'embedded', a folder, a hub id or a .safetensors file.

    ``say`` hears what is being downloaded and read. ``download=False`` uses only what the local hub cache holds.
    Raises WeightsError with a sentence for whatever cannot be loaded.
    """
    weights = weights or Weights()
    device = pick_device(device) if isinstance(device, str) else device
    choice = resolve(name, device)
    dtype = pick_dtype(weights.precision, device)
    try:
        loras = parse_loras(weights.loras)
        with quietly():
            parts = _load_parts(choice, weights, dtype, say, download)
            if weights.vae:
                parts.vae = _load_other_vae(weights.vae, parts.vae, dtype, say, download)
            apply_loras(parts, loras, choice.label, say)
            notes = _spare_the_vae(parts, device, dtype)
        say(f"Moving {choice.label} to the {'card' if device.type == 'cuda' else 'memory'}.")
        guidance = Guidance(
            label=choice.label,
            unet=parts.unet,
            vae=parts.vae,
            tokenizers=parts.tokenizers,
            text_encoders=parts.text_encoders,
            schedule=parts.schedule,
            device=device,
            dtype=dtype,
            zeros_for_empty=parts.zeros_for_empty,
            notes=notes,
        )
        return _with_language(guidance) if choice.source == str(EMBEDDED) else guidance
    except DreamerError:
        raise
    except torch.cuda.OutOfMemoryError:
        raise WeightsError(f"The model {choice.label} does not fit into the memory of the CUDA card.") from None
    except Exception as error:  # the loaders of three libraries raise anything on malformed files
        lines = str(error).strip().splitlines()
        raise WeightsError(f"The model {choice.label} cannot be loaded: {(lines or [type(error).__name__])[0][:300]}") from error


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What the networks compute in. auto: bfloat16 on CUDA (SDXL's own VAE gives NaN in float16) and on CPUs with matrix
    units for it, where it is three times as fast; else float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" or has_matrix_units() else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[precision]


def _load_parts(choice: ModelChoice, weights: Weights, dtype: torch.dtype, say: Say, download: bool) -> Parts:
    if choice.kind == "hub":
        folder = fetch(choice.source, wanted_files, say, download=download)
        say(f"Reading {choice.label}.")
        advice = f"'hf download {choice.source}' completes it, where there is a connection."
        return load_folder(folder, choice.label, dtype, advice)
    say(f"Reading {choice.label}.")
    if choice.kind == "file":
        return load_file(Path(choice.source), choice.label, dtype, weights.prediction)
    if choice.source == str(EMBEDDED) and not (EMBEDDED / "model_index.json").is_file():
        raise WeightsError(
            f"The embedded model is missing: {EMBEDDED} has no model_index.json. "
            "Install the package with its weights, or train them with: python -m dreamerxl.miniature"
        )
    return load_folder(Path(choice.source), choice.label, dtype)


def _load_other_vae(name: str, own: Any, dtype: torch.dtype, say: Say, download: bool) -> Any:
    """The VAE that weights.vae names, in place of the model's own; it must speak of the same latents."""
    choice = resolve(name, "cpu")
    if choice.source == str(EMBEDDED):
        raise WeightsError(f"weights.vae is {_shown(name)}; a folder, a hub id or a .safetensors file with a VAE is accepted.")
    if choice.kind == "file":
        vae = load_vae_file(Path(choice.source), choice.label, own, dtype)
    else:
        folder = Path(choice.source)
        if choice.kind == "hub":  # a whole model, or a VAE alone

            def chosen(files: Sequence[str]) -> list[str]:
                return wanted_files(files, ("vae",)) or wanted_files(files, ("",))

            inside = cached_folder(choice.source, "vae/config.json") is not None
            landmark = "vae/config.json" if inside else "config.json"
            folder = fetch(choice.source, chosen, say, download=download, landmark=landmark, otherwise="")
        vae = load_vae(folder, choice.label, dtype)
    ours, theirs = _latents_of(own), _latents_of(vae)
    if ours != theirs:
        raise WeightsError(
            f"The VAE {choice.label} makes latents of {theirs}, where the model needs {ours}: it belongs to another family."
        )
    return vae


def _latents_of(vae: Any) -> str:
    config = vae.config
    part = 2 ** (len(config.block_out_channels) - 1)
    return f"{config.latent_channels} channels at 1/{part} of the size, scaled by {config.scaling_factor:g}"


def _spare_the_vae(parts: Parts, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Take SDXL's VAE, which overflows in float16, out of it; returns what to tell about that."""
    if dtype != torch.float16 or not (parts.is_xl and parts.vae.config.force_upcast):
        return ()
    safe = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    parts.vae.to(safe)
    return (
        f"SDXL's VAE gives NaN in float16 unless it was made for it, so it runs in {str(safe).removeprefix('torch.')}; "
        f"one that was made for it can be named in weights.vae: {FP16_VAE}.",
    )


def _with_language(guidance: Guidance) -> Guidance:
    """The embedded model knows its words by name, for advice on prompts."""
    from dreamerxl.miniature.repertoire import repertoire

    return replace(guidance, repertoire=repertoire())


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
