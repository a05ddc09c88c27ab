"""A link that restores every setting, and what may be taken over from a link or from a file that a visitor brings.

?preset=mushroom&variants.0.gamma=0.5&seed=7       the nearest preset ('' for the paper's settings) and what differs
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlencode

from dreamerxl.config import Settings, load_preset, preset_names
from dreamerxl.errors import SettingsError
from dreamerxl.web.controls import PATHS

LONGEST = 16_000  # characters of a link
PRESET = "preset"
MODELS = ("auto", "embedded")
SIDES = "sides"  # how many, where the preset has another number


def query_of(settings: Settings) -> str:
    """The query of a link to some settings, without the question mark."""
    wanted = _flat(settings)
    bases = {name: _flat(base) for name, base in _bases().items()}
    name = min(bases, key=lambda name: len(_differing(bases[name], wanted)))
    changes = _differing(bases[name], wanted)
    sides = len(settings.variants)
    if sides != len(_bases()[name].variants):
        changes = {SIDES: sides, **changes}
    return urlencode([(PRESET, name), *((key, json.dumps(value, ensure_ascii=False)) for key, value in changes.items())])


def settings_of_link(query: Mapping[str, str], models: Collection[str] = MODELS) -> Settings | None:
    """The settings that a link's query asks for, as ``harmless`` leaves them; None where it asks for none.

    Raises SettingsError for what does not fit.
    """
    if PRESET not in query:
        return None
    if sum(len(key) + len(value) for key, value in query.items()) > LONGEST:
        raise SettingsError(f"The link is longer than {LONGEST:,} characters; none that this page makes is.")
    name = query[PRESET]
    plain = (load_preset(name) if name else Settings()).to_dict()
    if SIDES in query:
        count = int(query[SIDES]) if query[SIDES].isdecimal() and len(query[SIDES]) < 3 else 0
        if not 1 <= count <= 4:
            raise SettingsError(f"The link asks for {query[SIDES][:20]!r} sides; 1 to 4 are accepted.")
        plain["variants"] = (plain["variants"] * 4)[:count]
    changes = {key: _value(text) for key, text in query.items() if "." in key or key in plain}
    return harmless(Settings.from_dict(plain).override(changes), models)


def harmless(settings: Settings, models: Collection[str] = MODELS) -> Settings:
    """The same settings without what names files on this machine, or models other than those and
    the presets', which a visitor may not say."""
    paths: dict[str, Any] = {name: _flat(Settings())[name] for name in PATHS}
    if settings.initialization.shape == "file":
        paths["initialization.shape"] = Settings().initialization.shape
    if settings.model not in {*models, *(base.model for base in _bases().values())}:
        paths["model"] = "auto"
    return settings.override(paths)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@functools.cache
def _bases() -> dict[str, Settings]:
    return {"": Settings(), **{name: load_preset(name) for name in preset_names()}}


def _differing(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wanted.items() if key not in base or base[key] != value}


def _flat(settings: Settings) -> dict[str, Any]:
    """Single settings by dotted name, those of the sides by their index."""
    flat: dict[str, Any] = {}
    for name, value in settings.to_dict().items():
        if name == "variants":
            for index, side in enumerate(value):
                flat |= {f"variants.{index}.{key}": entry for key, entry in side.items()}
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            flat[name] = value
    return flat
