"""Timesteps of an iteration: t, s, mu and the grid of the inversion.

    t    where the guided prediction is taken, 1..T-1, one draw shared by every variant of a run
    s    max(t - delta_T, 0), where the inverted trajectory branches
    mu   between s and t, where the reference prediction is taken
Two rules exist for t and for mu, the paper's and the released code's. Under the paper's, mu = s + gamma (t - s)
(section 3.3); the released code has mu = s + sqrt(1 - gamma^2) (t - s), so a small gamma puts mu near t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dreamerxl.config import Timesteps, Variant


@dataclass(frozen=True)
class Steps:
    """s <= mu <= t, and the timesteps that the inversion visits, from its first one up to s, both included."""

    t: int
    s: int
    mu: int
    inversion: tuple[int, ...]


def draw_t(timesteps: Timesteps, iteration: int, schedule_length: int, generator: torch.Generator) -> int:
    """t, uniform over 1..T-1 (Algorithm 1), or under the released rule over t_min..an upper bound that is annealed.

    The bound falls linearly from t_max_start to t_max over anneal_iterations. Ends are included.
    """
    low, high = 1, schedule_length - 1
    if timesteps.rule == "released":
        high = min(high, anneal(timesteps.t_max_start, timesteps.t_max, iteration, timesteps.anneal_iterations))
        low = min(timesteps.t_min, high)
    return int(torch.randint(low, high + 1, (), generator=generator))


def plan_steps(t: int, variant: Variant, timesteps: Timesteps, iteration: int) -> Steps:
    """s, mu and the inversion grid that belong to t (Algorithm 1, line 4).

    delta_T is annealed from delta_t_start, where that is set. mu follows gamma for TSM; it is s for ISM and t for CSD,
    SDS and VSD, which have no gamma. The grid is 0, delta_S, 2 delta_S, ..., s with a shorter last step; a limit of n
    steps lets it start at max(s - n delta_S, 0) instead.
    """
    delta_t = variant.delta_t
    if variant.delta_t_start is not None:
        delta_t = anneal(variant.delta_t_start, variant.delta_t, iteration, timesteps.anneal_iterations)
    s = max(t - delta_t, 0)
    mu = {"ism": s, "csd": t, "sds": t, "vsd": t}.get(variant.method)
    if mu is None:
        share = variant.gamma if variant.mu_rule == "paper" else math.sqrt(1 - variant.gamma**2)
        mu = min(max(nearest(s + share * (t - s)), s), t)
    first = 0 if variant.max_inversion_steps is None else max(s - variant.max_inversion_steps * variant.delta_s, 0)
    return Steps(t, s, mu, (*range(first, s, variant.delta_s), s))


def anneal(start: int, end: int, iteration: int, iterations: int) -> int:
    """The line from start (iteration 0) to end (from ``iterations`` on), to the nearest timestep; end if iterations is 0."""
    done = min(1.0, iteration / iterations) if iterations else 1.0
    return nearest(start + (end - start) * done)


def nearest(value: float) -> int:
    """The nearest integer, halves upwards (Python's round takes them to the even neighbour)."""
    return math.floor(value + 0.5)
