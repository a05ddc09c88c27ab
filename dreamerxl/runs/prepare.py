"""From settings to a trainer that is ready for its first step."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from dreamerxl.config import Settings
from dreamerxl.errors import WeightsError
from dreamerxl.gaussians.ply import Points
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.guidance.models import (
    EMBEDDED,
    Guidance,
    ModelChoice,
    check_cards,
    load_guidance,
    pick_device,
    pick_others,
    resolve,
)
from dreamerxl.guidance.shap_e import points_from_text
from dreamerxl.runs.marks import Judge
from dreamerxl.runs.worker import Prepared
from dreamerxl.training.draw import generator_for
from dreamerxl.training.memory import fit
from dreamerxl.training.side import INITIAL
from dreamerxl.training.trainer import Trainer


class Preparation:
    """The default ``make_trainer``: keeps the last guidance, so that a run with the same model starts without loading it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._guidance: Guidance | None = None

    def __call__(self, settings: Settings, say: Say = silent) -> Prepared:
        """``say`` hears what is being downloaded and read."""
        device = pick_device(settings.device)
        check_cards(device, settings.cards)
        choice = resolve(settings.model, device)
        guidance = self._guidance_for(choice, settings, str(device), say)
        notices = guidance.check_prompt(settings.prompt, settings.prompting.negative_prompt)
        if settings.model == "auto":
            notices = [choice.reason, *notices]
        cloud, told = first_points(settings, device, say)
        cards = (guidance, *guidance.others)
        profile, memory = fit(settings, guidance)
        for card in cards:
            card.encode_at_once = profile.encode_at_once
        for sentence in memory:
            say(sentence)
        notices = [*notices, *guidance.notes, *told, *memory]
        return Prepared(
            Trainer(settings, guidance, profile.max_rows and profile.max_rows * len(cards), cloud=cloud),
            guidance.decode,
            guidance.label,
            str(guidance.device),
            tuple(notices),
            judge_of(choice, settings.prompt),
        )

    def _guidance_for(self, choice: ModelChoice, settings: Settings, device: str, say: Say) -> Guidance:
        key = (choice.kind, choice.source, device, settings.weights, settings.cards)
        if self._guidance is None or self._key != key:
            self._guidance = self._key = None  # two large models do not fit beside each other
            gc.collect()
            guidance = load_guidance(settings.model, device, settings.weights, say)
            others = pick_others(guidance.device, settings.cards, sum(part.numel() for part in guidance.unet.parameters()))
            guidance.others = tuple(guidance.copy_on(other) for other in others)
            self._guidance, self._key = guidance, key
        return self._guidance


def first_points(settings: Settings, device: torch.device, say: Say) -> tuple[Points | None, tuple[str, ...]]:
    """The points that a run starts from where they are made from a text, and what to tell if that cannot be done.

    On a CPU, where Shap-E takes minutes, it is used if it is there and not downloaded: a visitor may ask for it.
    """
    start = settings.initialization
    if start.shape != "text":
        return None, ()
    text, generator = start.prompt.strip() or settings.prompt, generator_for(settings.seed, INITIAL + 1)
    try:
        download = device.type == "cuda"
        return points_from_text(text, start.count, generator, device, say, source=start.shap_e, download=download), ()
    except WeightsError as error:
        return None, (f"The run starts from a ball in place of what Shap-E makes of {text[:80]!r}. {error}",)


def judge_of(choice: ModelChoice, prompt: str) -> Judge | None:
    """What scores renders against the prompt: the embedded model's own judge, on the CPU; None for other models."""
    if choice.source != str(EMBEDDED):
        return None
    from dreamerxl.miniature.judge import load_judge

    judge = load_judge()

    def score(views: np.ndarray) -> float:
        return judge.score(torch.from_numpy(views).movedim(-1, 1).float() / 255, prompt).mean().item()

    return score
