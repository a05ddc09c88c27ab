"""Means with their uncertainty, from pairs: two cases of a sweep under the same prompt and seed.

Runs that share prompt and seed share every draw, so their difference says more than their values do. The seeds of one
prompt are averaged first: they are not independent of each other, and intervals over them as if they were come out too
narrow. Where there is one prompt, its seeds are the units. An interval speaks of other prompts of the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[str, int]  # prompt, seed
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n units and half the width of its 95 % confidence interval (Student's t; NaN for fewer than two units)."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(t.ppf(0.5 + LEVEL / 2, n - 1)) * deviation / math.sqrt(n), n)


def units(values: Mapping[Key, float]) -> list[float]:
    """The mean over the seeds of each prompt; the values themselves where there is one prompt."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in values))
    if len(prompts) < 2:
        return list(values.values())
    by_prompt = [[value for (of, _), value in values.items() if of == prompt] for prompt in prompts]
    return [math.fsum(group) / len(group) for group in by_prompt]


def paired(values: Mapping[Key, float], baseline: Mapping[Key, float]) -> Estimate:
    """The mean difference to the baseline over what both have."""
    return estimate(units({key: value - baseline[key] for key, value in values.items() if key in baseline}))
