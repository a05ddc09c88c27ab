"""Answers the noise predictions that the methods of all sides ask for, one network call a round.

Sides of a run go through their methods together: each round collects what every side asks, merges repeated rows
(same latents, timestep and prompt), evaluates the network once with each row's own timestep, and hands the answers
back. Guidance: eps_negative + w (eps_cond - eps_negative), w the side's guidance_scale; with Perp-Neg, two more rows
for each guided query (perp_neg.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from dreamerxl.distillation.queries import Distillation, Predictions, Queries, Query
from dreamerxl.distillation.score import Score
from dreamerxl.guidance.conditioning import Conditioning, join
from dreamerxl.guidance.perp_neg import Away, guide

Prompt: TypeAlias = Literal["views", "negative", "inversion", "away_1", "away_2", "particles"]
Row: TypeAlias = tuple[int, int, Prompt]  # id of the latents, timestep, prompt


class Predictor(Protocol):
    """A network's noise prediction, each row at its own timestep and prompt."""

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor: ...


class Denoiser:
    """The predictions of one iteration: a network and the prompts of the iteration's B views.

    ``evaluations`` counts network rows. With ``max_rows`` a round is cut into several calls of at most that many.
    """

    def __init__(
        self,
        network: Predictor,
        views: Conditioning,
        negative: Conditioning,
        inversion: Conditioning | None,
        guidance_scales: Sequence[float],
        max_rows: int | None = None,
        away: Away | None = None,
        particles: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        """particles: what answers VSD's questions about the run's own scenes, for latents of whole batches and a timestep."""
        self.network = network
        self.prompts: dict[Prompt, Conditioning] = {"views": views, "negative": negative}
        if inversion is not None:  # None: the same prompt as the negative one, whose rows then serve both
            self.prompts["inversion"] = inversion
        if away is not None:
            self.prompts |= {"away_1": away.first, "away_2": away.second}
        self.away = away
        self.guidance_scales = guidance_scales
        self.max_rows = max_rows
        self.particles = particles
        self.evaluations = 0
        self.calls = 0

    def answer(self, asked: Mapping[int, Queries]) -> dict[int, Predictions]:
        """Predictions for the queries of several sides, by side. One network call, unless max_rows cuts it."""
        latents = {id(query.x): query.x for queries in asked.values() for query in queries}
        rows: dict[Row, None] = {}  # an ordered set
        for side, queries in asked.items():
            for query in queries:
                rows |= dict.fromkeys(self._rows(query, self.guidance_scales[side]))
        of_model = [row for row in rows if row[2] != "particles"]
        found = dict(zip(of_model, self._predict(of_model, latents), strict=True)) if of_model else {}
        found |= self._predict_particles([row for row in rows if row[2] == "particles"], latents)
        return {
            side: tuple(self._guide(query, self.guidance_scales[side], found) for query in queries)
            for side, queries in asked.items()
        }

    def _rows(self, query: Query, scale: float) -> list[Row]:
        x = id(query.x)
        if query.particles:
            return [(x, query.t, "particles")]
        if not query.guided:
            return [(x, query.t, "inversion" if "inversion" in self.prompts else "negative")]
        wanted: list[Prompt] = ["negative", "views"]
        if scale == 0:
            wanted = ["negative"]
        elif self.away is not None:
            wanted = ["negative", "views", "away_1", "away_2"]
        elif scale == 1:
            wanted = ["views"]
        return [(x, query.t, prompt) for prompt in wanted]

    def _guide(self, query: Query, scale: float, found: dict[Row, Tensor]) -> Tensor:
        parts = [found[row] for row in self._rows(query, scale)]
        if self.away is not None and len(parts) > 2:
            return guide(parts[0], parts[1], parts[2:], self.away.weights, scale)
        return parts[0] if len(parts) == 1 else parts[0] + scale * (parts[1] - parts[0])

    def _predict(self, rows: list[Row], latents: Mapping[int, Tensor]) -> list[Tensor]:
        """Predictions [B, C, h, w] for each row, which stands for a batch of B."""
        batch = next(iter(latents.values())).shape[0]
        x = torch.cat([latents[row[0]] for row in rows])
        t = torch.cat([torch.full((batch,), row[1], device=x.device) for row in rows])  # a list copied over would wait
        prompts = join([self._batch(row[2], batch) for row in rows])
        step = self.max_rows or len(x)
        pieces = [slice(start, start + step) for start in range(0, len(x), step)]
        eps = [self.network.predict(x[piece], t[piece], prompts.rows(piece)) for piece in pieces]
        self.evaluations += len(x)
        self.calls += len(eps)
        return list(torch.cat(eps).split(batch))

    def _predict_particles(self, rows: list[Row], latents: Mapping[int, Tensor]) -> dict[Row, Tensor]:
        """Predictions of the particles' model [B, C, h, w] for each row; one call for each timestep, sides share theirs."""
        found: dict[Row, Tensor] = {}
        for t in dict.fromkeys(row[1] for row in rows):
            if self.particles is None:
                raise ValueError("a method asked for the prediction of the particles, whose model this denoiser has not")
            same = [row for row in rows if row[1] == t]
            eps = self.particles(torch.cat([latents[row[0]] for row in same]), t)
            found |= dict(zip(same, eps.chunk(len(same)), strict=True))
            self.evaluations += len(eps)
            self.calls += 1
        return found

    def _batch(self, prompt: Prompt, batch: int) -> Conditioning:
        conditioning = self.prompts[prompt]
        return conditioning.repeated(batch) if len(conditioning) == 1 else conditioning


def advance_together(
    methods: Sequence[Distillation], answer: Callable[[Mapping[int, Queries]], Mapping[int, Predictions]]
) -> list[Score]:
    """The score of each method, with what they all ask in a round answered at once."""
    asked: dict[int, Queries] = {side: next(method) for side, method in enumerate(methods)}
    scores: dict[int, Score] = {}
    while asked:
        answers, pending = answer(asked), dict[int, Queries]()
        for side, predictions in answers.items():
            try:
                pending[side] = methods[side].send(predictions)
            except StopIteration as done:
                scores[side] = done.value
        asked = pending
    return [scores[side] for side in range(len(methods))]
