"""View-dependent prompts: a phrase for each direction, text embeddings interpolated in between.

Directions, in this order: front (azimuth 0), left (90), back (180), right (-90), overhead. Angles in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dreamerxl.config import Prompting
from dreamerxl.guidance.conditioning import Conditioning
from dreamerxl.guidance.perp_neg import Away, away_from

OVERHEAD_FROM_DEG, OVERHEAD_FULL_DEG = 30.0, 60.0


class Embedder(Protocol):
    """What a prompt is embedded by."""

    @property
    def zeros_for_empty(self) -> bool:
        """Whether the model was trained with zeros where there is no prompt (SDXL)."""
        ...

    def embed(self, prompts: list[str]) -> Conditioning: ...


def view_weights(prompting: Prompting, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
    """Shares [B, 5] of the five directions for cameras at azimuth [B] and elevation [B]; each row sums to 1.

    Piecewise linear in azimuth between the four sides. Where an overhead phrase is set, its share rises linearly
    from 30 to 60 degrees of elevation, at the sides' expense.
    """
    quarter = torch.remainder(azimuth_deg, 360.0) / 90.0  # [B], 0 front, 1 left, 2 back, 3 right
    sides = torch.arange(4, dtype=quarter.dtype, device=quarter.device)
    distance = (quarter[:, None] - sides).abs()
    shares = (1 - torch.minimum(distance, 4 - distance)).clamp_min(0)  # [B, 4], a tent around each side
    overhead = torch.zeros_like(quarter)
    if prompting.overhead:
        overhead = ((elevation_deg - OVERHEAD_FROM_DEG) / (OVERHEAD_FULL_DEG - OVERHEAD_FROM_DEG)).clamp(0, 1).to(quarter)
    return torch.cat([shares * (1 - overhead[:, None]), overhead[:, None]], 1)


def phrase(prompt: str, view: str, depth: str = "") -> str:
    """The prompt with what is said of the view and of depth images: 'a duck, side view, depth map'."""
    return ", ".join(part for part in (prompt, view, depth) if part)


@dataclass(frozen=True)
class PromptEmbeddings:
    """A prompt as five directions, for colour and for depth images, with the negative and the inversion prompt."""

    prompting: Prompting
    color: Conditioning  # 5 rows
    depth: Conditioning  # 5 rows
    negative: Conditioning  # 1 row
    inversion: Conditioning  # 1 row

    @property
    def inversion_is_negative(self) -> bool:
        """Whether one prediction serves both the inversion and the unconditional branch of guidance."""
        return self.prompting.negative_prompt == self.prompting.inversion_prompt

    def conditioning(self, azimuth_deg: Tensor, elevation_deg: Tensor, depth: bool = False) -> Conditioning:
        """One row for each of B views: embeddings of the five directions, mixed."""
        directions = self.depth if depth else self.color
        return directions.mix(view_weights(self.prompting, azimuth_deg, elevation_deg))

    def away(self, azimuth_deg: Tensor, elevation_deg: Tensor, depth: bool = False) -> Away | None:
        """What Perp-Neg pushes each of B views away from, less so where the overhead phrase speaks; None where it is off."""
        if not self.prompting.perp_neg:
            return None
        directions = self.depth if depth else self.color
        indices, weights = away_from(self.prompting, azimuth_deg)
        overhead = view_weights(self.prompting, azimuth_deg, elevation_deg)[:, 4:].to(weights)
        rows = indices.to(directions.hidden.device)
        return Away(directions.rows(rows[:, 0]), directions.rows(rows[:, 1]), weights * (1 - overhead))


def embed_prompt(guidance: Embedder, prompt: str, prompting: Prompting) -> PromptEmbeddings:
    """Everything that a run needs from the text encoders, embedded in one call, each text once.

    An empty negative or inversion prompt becomes what the model's own pipeline makes of a prompt that is not given:
    zeros for SDXL, which was trained with them, unless ``prompting.empty`` asks for the embedding of the empty text.
    """
    views = (prompting.front, prompting.left, prompting.back, prompting.right, prompting.overhead)
    texts = [phrase(prompt, view) for view in views] + [phrase(prompt, view, prompting.depth) for view in views]
    texts += [prompting.negative_prompt, prompting.inversion_prompt]
    distinct = list(dict.fromkeys(texts))
    rows = guidance.embed(distinct)
    if guidance.zeros_for_empty and prompting.empty == "model" and "" in distinct:
        rows = rows.blanked(distinct.index(""))
    index = [distinct.index(text) for text in texts]
    return PromptEmbeddings(
        prompting, rows.rows(index[:5]), rows.rows(index[5:10]), rows.rows(index[10:11]), rows.rows(index[11:12])
    )
