"""Checkpoints: a trainer's state as one .safetensors file, its settings and counters as JSON in the file's header.

Never a pickle. A file appears whole or not at all: it is written beside its place, flushed to the disk and renamed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamerxl.errors import RunFolderError

FORMAT = 1
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class State:
    """Tensors by name, and plain values: format, iteration, settings."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(path: str | Path, state: State) -> None:
    """Write a state to a path that ends in .safetensors. Atomic. Raises RunFolderError where it cannot be written."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        os.close(handle)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        save_file(tensors, temporary, metadata={"state": json.dumps({"format": FORMAT, **state.values})})
        _flush(Path(temporary))
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunFolderError(f"The checkpoint {path.name} cannot be written: {error}.") from error


def load(path: str | Path) -> State:
    """Read what ``save`` wrote. Raises RunFolderError for a file that is missing, torn or something else."""
    path = Path(path)
    with _reading(path) as file:
        values = _values(path, file)
        return State({name: file.get_tensor(name) for name in list(file.keys())}, values)


def latest(folder: str | Path) -> Path | None:
    """The readable checkpoint of the highest iteration in a folder; torn and foreign files are passed over."""
    found: list[tuple[int, str]] = []
    for path in Path(folder).glob(f"*{SUFFIX}"):
        try:
            with _reading(path) as file:
                found.append((int(_values(path, file)["iteration"]), path.name))
        except (RunFolderError, KeyError, TypeError, ValueError):
            continue
    return Path(folder) / max(found)[1] if found else None


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; opening compares its length with its header. Whatever fails inside becomes a RunFolderError."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise RunFolderError(f"The checkpoint {path.name} cannot be read: {error}.") from error


def _values(path: Path, file: Any) -> dict[str, Any]:
    values = json.loads((file.metadata() or {}).get("state", "null"))
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise RunFolderError(f"The checkpoint {path.name} has format {found}; format {FORMAT} is accepted.")
    return values


def _flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before going on."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
