"""What the machine has: CUDA, memory, threads and the versions of what runs on it."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata
from typing import Any

import torch

import dreamerxl

PACKAGES = ("torch", "diffusers", "transformers", "gsplat", "numba", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Versions that a run's result depends on."""
    found = {"dreamerxl": dreamerxl.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(device: str) -> dict[str, Any]:
    """The machine in plain values: system, threads, memory, and the card where the run uses it."""
    found: dict[str, Any] = {"system": platform.system(), "architecture": platform.machine(), "threads": torch.get_num_threads()}
    total = memory_bytes()
    if total:
        found["memory_gib"] = round(total / 2**30, 1)
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(torch.device(device))
        found |= {"card": card.name, "card_memory_gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return found


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX)."""
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", torch.cpu._is_amx_tile_supported()))


def card_memory(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of a CUDA card. What PyTorch holds without using it counts as free."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def memory_bytes() -> int:
    """Main memory, or 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
