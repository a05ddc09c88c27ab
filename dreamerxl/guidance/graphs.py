"""A function of rows run at a few fixed row counts, each recorded once and replayed.

    inputs     tensors [R, ...], one row an evaluation
    output     [R, ...]
A CUDA graph replays thousands of launches as one, which is what small batches wait for, but takes one shape only. A run
has few row counts, multiples of its views, so each is recorded as it comes. Where there is no room for another, rows are
filled up to a recorded count that is at most a quarter larger, or the recording that was used least recently makes way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor

WARM_UP = 2  # runs before the recording: kernels are compiled and chosen


class Recording(Protocol):
    """The function at one row count: new inputs in, the output out. The output is overwritten by the next call."""

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor: ...


Record = Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Recording]


class StaticBatches:
    """The function, called with any number of rows, which must not depend on each other."""

    def __init__(self, function: Callable[..., Tensor], record: Record, most: int = 8) -> None:
        """most: recordings kept."""
        self.function, self.record, self.most = function, record, most
        self.recordings: dict[int, Recording] = {}  # by row count, the least recently used first

    def __call__(self, *inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        size = self._size(rows)
        if size > rows:
            inputs = tuple(torch.cat([part, part[-1:].expand(size - rows, *part.shape[1:])]) for part in inputs)
        recording = self.recordings.pop(size, None) or self._recorded(inputs)
        self.recordings[size] = recording
        return recording(inputs)[:rows].clone()

    def _size(self, rows: int) -> int:
        if rows in self.recordings or len(self.recordings) < self.most:
            return rows
        return min((size for size in self.recordings if rows < size <= 1.25 * rows), default=rows)

    def _recorded(self, inputs: tuple[Tensor, ...]) -> Recording:
        if len(self.recordings) == self.most:
            del self.recordings[next(iter(self.recordings))]
        return self.record(self.function, inputs)


class CudaGraphs:
    """Records functions of one card as CUDA graphs in one pool of memory, so that many take about as much as the largest.

    They are recorded on one stream, too: what one leaves in the pool is given to another of the same stream alone.
    """

    def __init__(self) -> None:
        self.graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()  # a pool lives as long as a graph of it
        self.stream: torch.cuda.Stream | None = None  # of the card that is current at the first recording; PyTorch's own
        # default for recordings is one stream of one card for the whole program

    def __call__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Recording:
        held = tuple(part.clone() for part in inputs)
        stream = self.stream = self.stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph, others = torch.cuda.CUDAGraph(), list(self.graphs)
        pool = others[0].pool() if others else None
        with torch.no_grad(), torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = function(*held)
        self.graphs.add(graph)

        def replay(inputs: tuple[Tensor, ...]) -> Tensor:
            for to, part in zip(held, inputs, strict=True):
                to.copy_(part)
            graph.replay()
            return output

        return replay
