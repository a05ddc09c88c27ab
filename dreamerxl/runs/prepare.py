"""From settings to a trainer that is ready for its first step."""

from __future__ import annotations

import gc

from dreamerxl.config import Settings
from dreamerxl.guidance.models import Guidance, ModelChoice, load_guidance, pick_device, resolve
from dreamerxl.runs.worker import Prepared
from dreamerxl.training.trainer import Trainer


class Preparation:
    """The default ``make_trainer``: keeps the last guidance, so that a run with the same model starts without loading it."""

    def __init__(self) -> None:
        self._key: tuple[str, str, str] | None = None
        self._guidance: Guidance | None = None

    def __call__(self, settings: Settings) -> Prepared:
        device = pick_device(settings.device)
        choice = resolve(settings.model, device)
        guidance = self._guidance_for(choice, settings.model, str(device))
        notices = guidance.check_prompt(settings.prompt, settings.prompting.negative_prompt)
        if settings.model == "auto":
            notices = [choice.reason, *notices]
        return Prepared(Trainer(settings, guidance), guidance.decode, guidance.label, str(guidance.device), tuple(notices))

    def _guidance_for(self, choice: ModelChoice, name: str, device: str) -> Guidance:
        key = (choice.kind, choice.source, device)
        if self._guidance is None or self._key != key:
            self._guidance = self._key = None  # two large models do not fit beside each other
            gc.collect()
            self._guidance = load_guidance(name, device)
            self._key = key
        return self._guidance
