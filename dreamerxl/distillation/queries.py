"""What a distillation method asks of the denoiser.

A method is a generator: ``eps_a, eps_b = yield Query, Query`` yields a tuple of queries that may be answered
together, and receives the predicted noises in the same order. It never calls a network, so whoever drives it decides
on batching, and a test can drive it with a closed form.

A query's ``x`` is passed on as the very object whenever two queries are about the same latents; a driver may
recognise repeated rows by identity.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from dreamerxl.distillation.score import Score


@dataclass(frozen=True, eq=False)
class Query:
    """A noise prediction at latents x [B, C, h, w] and timestep t, guided by the prompt or not; or that of the particles."""

    x: Tensor
    t: int
    guided: bool
    particles: bool = False  # ask the model of the run's own scenes (VSD)


Queries: TypeAlias = tuple[Query, ...]
Predictions: TypeAlias = tuple[Tensor, ...]
Trajectory: TypeAlias = Generator[Queries, Predictions, Tensor]
Distillation: TypeAlias = Generator[Queries, Predictions, Score]


def Unconditional(x: Tensor, t: int) -> Query:
    """eps(x, t, empty): the prediction for the inversion prompt, which the paper leaves empty."""
    return Query(x, t, guided=False)


def Guided(x: Tensor, t: int) -> Query:
    """eps(x, t, y) under guidance: eps_negative + w (eps_cond - eps_negative), w the variant's guidance_scale."""
    return Query(x, t, guided=True)


def OfParticles(x: Tensor, t: int) -> Query:
    """eps_phi(x, t, y, c): the prediction of the model that learns what the run's own scenes look like from camera c (VSD)."""
    return Query(x, t, guided=False, particles=True)
