"""Numbers of an iteration that stay on the device until one copy brings them all.

Asking a card for a single number waits until it has done everything before it, and then it stands idle while the next
launches are prepared. So an iteration notes its norms, and whether each stage was finite, and reads them together.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

Key: TypeAlias = tuple[int, str]  # side, name


class Readout:
    """Scalars of the sides, in the order in which they were noted."""

    def __init__(self) -> None:
        self.noted: dict[Key, Tensor] = {}
        self.watched: list[Key] = []

    def note(self, side: int, name: str, value: Tensor) -> None:
        """value: a scalar on the device."""
        self.noted[side, name] = value.detach().float()

    def watch(self, side: int, stage: str, tensor: Tensor) -> None:
        """Note whether every element is finite."""
        self.watched.append((side, stage))
        self.note(side, stage, tensor.detach().isfinite().all())

    def read(self) -> tuple[dict[Key, float], list[Key]]:
        """All numbers, and the watched stages with something infinite or NaN, first one first. Waits for the device."""
        values = torch.stack(list(self.noted.values())).tolist()
        numbers = dict(zip(self.noted, values, strict=True))
        return numbers, [key for key in self.watched if not numbers[key]]


class Clock:
    """Milliseconds between stops; on CUDA taken by the card itself as it goes by."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stages: list[str] = []
        self.moments = [self._now()]

    def stop(self, stage: str) -> None:
        """End a stage."""
        self.stages.append(stage)
        self.moments.append(self._now())

    def milliseconds(self) -> dict[str, float]:
        """Stage by stage; waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spans = [before.elapsed_time(after) for before, after in pairwise(self.moments)]
        return dict(zip(self.stages, spans, strict=True))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return Moment(time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Moment(float):
    """Seconds of the processor's clock, read as a CUDA event is."""

    def elapsed_time(self, after: Moment) -> float:
        return (after - self) * 1e3
