"""Metric curves of a run, thinned as they grow: at most ``POINTS`` points, each the mean of equally many iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

POINTS = 400


@dataclass(frozen=True)
class History:
    """Curves of each side. A point stands at the last iteration that its mean covers."""

    iterations: tuple[int, ...] = ()
    sides: tuple[Mapping[str, tuple[float, ...]], ...] = ()


class Curves:
    """Collects metrics of every iteration. When full, neighbouring points are averaged and the stride doubles."""

    def __init__(self, points: int = POINTS):
        self._points, self._stride = points, 1
        self._iterations: list[int] = []
        self._sides: list[dict[str, list[float]]] = []
        self._pending: list[Sequence[Mapping[str, float]]] = []

    def add(self, iteration: int, sides: Sequence[Mapping[str, float]]) -> None:
        """Take in the metrics of one iteration, one mapping a side with the same keys each time."""
        self._pending.append(sides)
        if len(self._pending) < self._stride:
            return
        if not self._sides:
            self._sides = [{name: [] for name in side} for side in sides]
        for index, curves in enumerate(self._sides):
            for name, values in curves.items():
                values.append(sum(entry[index][name] for entry in self._pending) / len(self._pending))
        self._iterations.append(iteration)
        self._pending.clear()
        if len(self._iterations) >= self._points:
            self._thin()

    def forget_after(self, iteration: int) -> None:
        """Drop what came after an iteration, to which a run went back."""
        kept = sum(at <= iteration for at in self._iterations)
        del self._iterations[kept:]
        for curves in self._sides:
            for values in curves.values():
                del values[kept:]
        self._pending.clear()

    def history(self) -> History:
        """The curves so far, immutable."""
        sides = tuple({name: tuple(values) for name, values in curves.items()} for curves in self._sides)
        return History(tuple(self._iterations), sides)

    def _thin(self) -> None:
        self._stride *= 2
        self._iterations = self._iterations[1::2]
        for curves in self._sides:
            for name, values in curves.items():
                curves[name] = [(a + b) / 2 for a, b in zip(values[0::2], values[1::2], strict=False)]
