"""A function of rows run at a few fixed row counts, each recorded once and replayed.

    inputs     tensors [R, ...], one row an evaluation
    output     [R, ...]
A CUDA graph replays hundreds of launches as one, which is what small batches wait for, but takes one shape only. Row
counts are recorded as they come, up to ``most`` of them; after that, rows are filled up to the next recorded count, or
cut at the largest. Rows must not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 2  # runs before the recording: kernels are compiled and chosen


class Recording(Protocol):
    """The function at one row count: new inputs in, the output out. The output is overwritten by the next call."""

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor: ...


Record = Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Recording]


class StaticBatches:
    """The function, called with any number of rows."""

    def __init__(self, function: Callable[..., Tensor], record: Record, most: int = 8) -> None:
        self.function, self.record, self.most = function, record, most
        self.recordings: dict[int, Recording] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        size = self._size(rows)
        if size < rows:
            pieces = zip(*(part.split(size) for part in inputs), strict=True)
            return torch.cat([self(*piece) for piece in pieces])
        if size > rows:
            inputs = tuple(torch.cat([part, part[-1:].expand(size - rows, *part.shape[1:])]) for part in inputs)
        if size not in self.recordings:
            self.recordings[size] = self.record(self.function, inputs)
        return self.recordings[size](inputs)[:rows].clone()

    def forget(self) -> None:
        """Drop every recording and its memory."""
        self.recordings.clear()

    def _size(self, rows: int) -> int:
        if rows in self.recordings or len(self.recordings) < self.most:
            return rows
        return min((size for size in self.recordings if size > rows), default=max(self.recordings))


class CudaGraphs:
    """Records functions as CUDA graphs that share one pool of memory, so that many cost about as much as the largest."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Recording:
        held = tuple(part.clone() for part in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            output = function(*held)

        def replay(inputs: tuple[Tensor, ...]) -> Tensor:
            for to, part in zip(held, inputs, strict=True):
                to.copy_(part)
            graph.replay()
            return output

        return replay
