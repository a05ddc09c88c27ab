"""What the program offers: the model that it was started with, the first form, and presets with their pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from dreamerxl.config import BASES, PRESETS, Settings, load_preset, preset_names
from dreamerxl.guidance.models import EMBEDDED, SDXL

FIRST = "mushroom"  # the preset that the form opens with
THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class Offer:
    """What the program was started with: the first form, and what 'auto' means for the model and the device."""

    first: Settings
    guidance: str = "auto"
    device: str = "auto"
    model_line: str = ""  # which model that is, in words

    def settle(self, settings: Settings) -> Settings:
        """The same settings with every 'auto' replaced by what the program was started with, and SDXL by the large model that
        it was started with: a fine-tune, say."""
        changes = {}
        if settings.model == "auto" or (settings.model == SDXL and self.guidance not in ("auto", "embedded")):
            changes["model"] = self.guidance
        if settings.device == "auto":
            changes["device"] = self.device
        return settings.override(changes)


def first_settings(source: str) -> Settings:
    """What the form holds at first: a preset of the embedded model where that is what runs, else the paper's settings."""
    names = gallery_names("embedded")
    if source == str(EMBEDDED) and names:
        return load_preset(FIRST if FIRST in names else names[0])
    return Settings()


def gallery_names(model: str) -> list[str]:
    """Presets for the gallery, without those that only serve as the base of others: the embedded model's, and before them
    those of the large model that runs, or SDXL's where it has none of its own."""
    models = {name: load_preset(name).model for name in preset_names() if name not in BASES}
    wanted = dict.fromkeys((model if model in models.values() else SDXL, "embedded"))
    return [name for each in wanted for name, own in models.items() if own == each]


def thumbnail(name: str) -> str:
    """presets/NAME.png, small, as a data address; '' where there is none."""
    path = PRESETS / f"{name}.png"
    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
