"""What a process holds on to: memory, threads, open files, sockets. Read from outside, so that measuring adds nothing to it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import psutil

MB = 2**20


@dataclass(frozen=True)
class Footprint:
    """Of one moment."""

    resident_mb: float
    threads: int
    files: int  # descriptors that are no sockets
    sockets: int
    card_mb: float = 0.0  # what PyTorch holds of the card, where the process is this one

    def __str__(self) -> str:
        text = f"{self.resident_mb:8.1f} MB {self.threads:4} threads {self.files:4} files {self.sockets:4} sockets"
        return text + (f" {self.card_mb:8.1f} MB of the card" if self.card_mb else "")


def footprint(process: psutil.Process | None = None) -> Footprint:
    """That of a process, by default this one."""
    process = process or psutil.Process()
    with process.oneshot():
        sockets = len(process.net_connections("all"))
        return Footprint(
            process.memory_info().rss / MB, process.num_threads(), process.num_fds() - sockets, sockets, card_mb(process)
        )


def card_mb(process: psutil.Process) -> float:
    """What PyTorch in this process holds of the card; 0 for another process, or without a card."""
    torch = sys.modules.get("torch") if process.pid == psutil.Process().pid else None
    return torch.cuda.memory_reserved() / MB if torch is not None and torch.cuda.is_available() else 0.0


def largest(moments: list[Footprint]) -> Footprint:
    """The largest of each figure."""
    return Footprint(*(max(getattr(moment, field.name) for moment in moments) for field in fields(Footprint)))
