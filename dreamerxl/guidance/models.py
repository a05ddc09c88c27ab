"""Names of diffusion models and how they are read: the embedded one, folders, the hub, single files.

Stable Diffusion 1.x, 2.x (v-prediction too), SDXL and the embedded model are loaded alike. Weights are read from
.safetensors files only: a pickle can run code, and the page lets visitors name a model. For the same reason the parts
are loaded by known classes, never by the class names that a folder brings along.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dreamerxl.diffusion.schedule import from_diffusers
from dreamerxl.errors import DeviceError, DreamerError, WeightsError
from dreamerxl.guidance.adapter import Guidance

EMBEDDED = Path(__file__).resolve().parent.parent / "miniature" / "weights"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
WEIGHTS = "*.safetensors"
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
        raise WeightsError(f"The model file {shown} is not a .safetensors file; other formats can run code and are not read.")
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


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    def cached(*names: str) -> bool:
        return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)

    stem = "diffusion_pytorch_model"
    return cached("model_index.json") and all(
        cached(f"{part}/{stem}.safetensors", f"{part}/{stem}.fp16.safetensors") for part in ("unet", "vae")
    )


def load_guidance(name: str, device: torch.device | str = "auto", *, download: bool = True) -> Guidance:
    """The guidance that a name stands for: 'auto', 'embedded', a folder, a hub id or a .safetensors file.

    On CUDA everything is bf16 (SDXL's VAE gives NaN in fp16), on a CPU float32. ``download=False`` uses only what
    the local hub cache holds. Raises WeightsError with a sentence for whatever cannot be loaded.
    """
    device = pick_device(device) if isinstance(device, str) else device
    choice = resolve(name, device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        if choice.kind == "file":
            return _load_file(choice, device, dtype)
        folder = Path(choice.source) if choice.kind == "folder" else _fetch(choice.source, download)
        with _without_progress_bars():
            guidance = _load_folder(folder, choice.label, device, dtype)
        return _with_language(guidance) if folder == EMBEDDED else guidance
    except DreamerError:
        raise
    except torch.cuda.OutOfMemoryError:
        raise WeightsError(f"The model {choice.label} does not fit into the memory of the CUDA card.") from None
    except Exception as error:  # the loaders of three libraries raise anything on malformed files
        raise WeightsError(f"The model {choice.label} cannot be loaded: {_first_line(error)}") from error


def _with_language(guidance: Guidance) -> Guidance:
    """The embedded model knows its objects and colours by name, for advice on prompts."""
    from dreamerxl.miniature.language import COLORS, NOUNS

    subjects = tuple(name for names in NOUNS.values() for name in names)
    return replace(guidance, subjects=subjects, qualities=tuple(COLORS))


def _load_folder(folder: Path, label: str, device: torch.device, dtype: torch.dtype) -> Guidance:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    index = _read_index(folder, label)
    encoders = ["text_encoder", "text_encoder_2"] if index.get("text_encoder_2") else ["text_encoder"]
    _check_parts(folder, index, label, encoders)

    def load(kind: Any, part: str, **more: Any) -> Any:
        halves = any((folder / part).glob("*.fp16.safetensors"))
        whole = any(".fp16." not in file.name for file in (folder / part).glob(WEIGHTS))
        variant = "fp16" if halves and (device.type == "cuda" or not whole) else None
        return kind.from_pretrained(folder, subfolder=part, variant=variant, use_safetensors=True, **more)

    texts = [CLIPTextModel, CLIPTextModelWithProjection]
    return Guidance(
        label=label,
        unet=load(UNet2DConditionModel, "unet", torch_dtype=dtype),
        vae=load(AutoencoderKL, "vae", torch_dtype=dtype),
        tokenizers=[_load_tokenizer(folder, part.replace("text_encoder", "tokenizer"), index) for part in encoders],
        text_encoders=[load(kind, part, dtype=dtype) for kind, part in zip(texts, encoders, strict=False)],
        schedule=from_diffusers(_read_json(folder / "scheduler" / "scheduler_config.json")),
        device=device,
        dtype=dtype,
    )


def _read_index(folder: Path, label: str) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        if folder == EMBEDDED:
            raise WeightsError(
                f"The embedded model is missing: {folder} has no model_index.json. "
                "Install the package with its weights, or train them with: python -m dreamerxl.miniature"
            )
        raise WeightsError(f"The folder {label} is not a diffusers model: it has no model_index.json.")
    index = _read_json(folder / "model_index.json")
    if not isinstance(index, dict):
        raise WeightsError(f"The model_index.json of {label} is not a table of parts.")
    return index


def _check_parts(folder: Path, index: dict[str, Any], label: str, encoders: list[str]) -> None:
    """Refuse other kinds of model and half-copied folders before anything is read."""
    accepted = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",)}
    accepted |= {"text_encoder": ("CLIPTextModel",), "text_encoder_2": ("CLIPTextModelWithProjection",)}
    for part in ("unet", "vae", *encoders):
        given = index.get(part)
        kind = given[1] if isinstance(given, list) and len(given) == 2 else None
        if kind not in accepted[part]:
            raise WeightsError(
                f"The model {label} has {kind or 'nothing'} as its {part}, where {accepted[part][0]} is needed; "
                "Stable Diffusion 1.x, 2.x and SDXL base models are supported."
            )
        if not (folder / part / "config.json").is_file():
            raise WeightsError(f"The model {label} is incomplete: {part}/config.json is missing. Download it again.")
        if not any((folder / part).glob(WEIGHTS)):
            pickled = any((folder / part).glob("*.bin")) or any((folder / part).glob("*.ckpt"))
            why = "its weights are pickled, which is not read; convert them to .safetensors" if pickled else "Download it again"
            raise WeightsError(f"The model {label} is incomplete: {part} has no .safetensors weights. {why}.")
    for part in ("scheduler/scheduler_config.json", *(f"{p.replace('text_encoder', 'tokenizer')}" for p in encoders)):
        if not (folder / part).exists():
            raise WeightsError(f"The model {label} is incomplete: {part} is missing. Download it again.")
    unet, vae = (_read_json(folder / part / "config.json") for part in ("unet", "vae"))
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


def _load_file(choice: ModelChoice, device: torch.device, dtype: torch.dtype) -> Guidance:
    """A single-file checkpoint; diffusers takes the settings and tokenizers of its base model from the hub or its cache."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from safetensors import safe_open

    with safe_open(choice.source, "pt") as file:
        keys = set(file.keys())
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise WeightsError(
            f"The file {choice.label} is not a Stable Diffusion or SDXL checkpoint: it has no model.diffusion_model weights."
        )
    is_xl = any(key.startswith("conditioner.embedders.1.") for key in keys)
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    more = {} if is_xl else {"safety_checker": None}
    pipeline: Any = kind.from_single_file(choice.source, torch_dtype=dtype, **more)
    return Guidance(
        label=choice.label,
        unet=pipeline.unet,
        vae=pipeline.vae,
        tokenizers=[pipeline.tokenizer, pipeline.tokenizer_2] if is_xl else [pipeline.tokenizer],
        text_encoders=[pipeline.text_encoder, pipeline.text_encoder_2] if is_xl else [pipeline.text_encoder],
        schedule=from_diffusers(dict(pipeline.scheduler.config)),
        device=device,
        dtype=dtype,
    )


def _fetch(repository: str, download: bool) -> Path:
    """The snapshot folder of a hub model, downloaded where that is allowed and needed."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    offline = not download or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        if offline:
            return Path(snapshot_download(repository, local_files_only=True))
        files = HfApi().list_repo_files(repository)
        return Path(snapshot_download(repository, allow_patterns=_wanted(files)))
    except GatedRepoError:
        raise WeightsError(
            f"The hub model {repository} is gated: accept its terms on its page and log in with 'hf auth login'."
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(f"There is no model {repository} on the hub, or it is private.") from None
    except LocalEntryNotFoundError:
        where = "downloads are off" if offline else "the hub cannot be reached"
        raise WeightsError(
            f"The model {repository} is not in the local hub cache and {where}; fetch it with 'hf download {repository}', "
            "or choose 'embedded', which needs no download."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"The hub model {repository} cannot be downloaded ({_first_line(error)}); "
            "try again later, or choose 'embedded', which needs no download."
        ) from error


def _wanted(files: list[str]) -> list[str]:
    """Of a hub model's files: settings, tokenizers and one set of .safetensors weights for each part, fp16 where there is one."""
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    found = [f for f in files if f == "model_index.json" or f.startswith(("scheduler/", "tokenizer/", "tokenizer_2/"))]
    for part in parts:
        weights = [f for f in files if f.startswith(f"{part}/") and f.endswith((".safetensors", ".safetensors.index.json"))]
        halves = [f for f in weights if ".fp16." in f]
        found += [f"{part}/config.json", *(halves or [f for f in weights if not re.search(r"non_ema|\.fp\d+\.|\.bf16\.", f)])]
    return found


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """transformers draws a bar for each part that it reads from the disk; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
