"""Pickled weights (.bin, .ckpt, .pt, .pth) become .safetensors files beside them, once, where the command line allows it.

Everything else here reads .safetensors alone, so that no visitor can bring a pickle to be read. Even where it is allowed,
PyTorch's restricted unpickler does it, which takes tensors and plain values and runs no code.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dreamerxl.errors import WeightsError
from dreamerxl.files import replacing
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.guidance.parts import CLASSES, PICKLED, WEIGHTS


def convert(name: str, say: Say = silent) -> str:
    """Give a diffusers folder or a single file .safetensors weights where it has pickled ones alone.

    Returns the name to read instead: that of the new file for a single one, else ``name``. Raises WeightsError.
    """
    path = Path(name)
    if path.is_dir():
        for part in CLASSES:
            if (path / part).is_dir() and not any((path / part).glob(WEIGHTS)):
                _convert_part(path / part, say)
    elif path.suffix in PICKLED and path.is_file():
        if not path.with_suffix(".safetensors").is_file():
            _convert_file(path, path.with_suffix(".safetensors"), say)
        return str(path.with_suffix(".safetensors"))
    return name


def _convert_part(part: Path, say: Say) -> None:
    """All weights of a part, shards and their list included, under the names by which they are looked for."""
    for file in sorted(part.glob("*.bin")):
        _convert_file(file, part / _safe_name(file.name), say)
    for listing in part.glob("*.bin.index*.json"):
        index = json.loads(listing.read_text("utf-8"))
        index["weight_map"] = {key: _safe_name(str(shard)) for key, shard in index["weight_map"].items()}
        with replacing(part / _safe_name(listing.name)) as partial:
            partial.write_text(json.dumps(index), "utf-8")


def _safe_name(name: str) -> str:
    return name.removeprefix("pytorch_").replace(".bin", ".safetensors")  # transformers' names; diffusers' stay


def _convert_file(source: Path, target: Path, say: Say) -> None:
    say(f"Converting {source.name} to {target.name}.")
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else "it is torn or of another kind"
        raise WeightsError(f"The pickled weights {source.name} cannot be read: {reason}. Nothing of it was run.") from error
    tensors = _tensors(found.get("state_dict", found) if isinstance(found, dict) else {})
    if not tensors:
        raise WeightsError(f"The file {source.name} holds no weights by name; a checkpoint or a state dict is accepted.")
    try:
        with replacing(target) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
    except OSError as error:
        raise WeightsError(f"The converted weights {target} cannot be written: {error.strerror or error}.") from None


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    """Named tensors that share no memory, as .safetensors wants them."""
    named = state.items() if isinstance(state, dict) else ()
    return {str(name): value.contiguous().clone() for name, value in named if isinstance(value, torch.Tensor)}
