"""The form: which control stands for which setting, made from the settings' own help texts and ranges.

A form is a list of ``Column``s, one a Gradio component. ``shown`` maps settings to the columns' values and ``read`` maps
them back; a setting whose control was not touched keeps what the preset said, also where its sides differ.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from dreamerxl.config import Method, Settings, Variant, leaf_fields
from dreamerxl.errors import SettingsError

LEFT, RIGHT = "left", "right"  # the methods of the first two sides
ABSENT = "none"  # the right side of a run that has one side only
IN_USE = ":on"  # the checkbox beside a slider whose setting may be empty

MAIN = (
    "variants.gamma",
    "variants.delta_t",
    "variants.clip_color",
    "variants.clip_depth",
    "variants.guidance_scale",
    "iterations",
    "seed",
)
PATHS = {"initialization.file", "initialization.shap_e", "weights.vae", "weights.loras"}  # on the server, not a visitor's to name
ELSEWHERE = {"description", "prompt", "variants.method", *PATHS, *MAIN}  # not in the advanced groups

SLIDERS: dict[str, tuple[float, float, float]] = {  # what is worth sliding through: low, high, step
    "variants.gamma": (0, 1, 0.01),
    "variants.delta_t": (1, 999, 1),
    "variants.clip_color": (0.005, 0.5, 0.005),
    "variants.clip_depth": (0.001, 0.1, 0.001),
    "variants.guidance_scale": (0, 200, 0.5),
}
LABELS = {
    "variants.gamma": "γ · offset rate",
    "variants.delta_t": "δT · interval t − s",
    "variants.delta_t_start": "δT at iteration 0",
    "variants.delta_s": "δS · inversion step",
    "variants.clip_color": "Colour clipping threshold",
    "variants.clip_depth": "Depth clipping threshold",
    "variants.mu_rule": "μ rule",
    "timesteps.rule": "t rule",
    "variants.guidance_scale": "Guidance scale",
    "variants.csd_trajectory": "CSD trajectory",
    "variants.weight": "ω(t)",
    "views.batch": "Views per iteration",
    "views.fovy_min_deg": "Narrowest field of view",
    "views.fovy_max_deg": "Widest field of view",
    "views.start_fovy_min_deg": "Narrowest field of view at iteration 0",
    "views.start_radius_min": "Nearest camera at iteration 0",
    "views.start_radius_max": "Farthest camera at iteration 0",
    "prompting.empty": "Empty prompt",
    "prompting.perp_neg": "Perp-Neg",
    "prompting.perp_neg_weight": "Perp-Neg: strength",
    "prompting.perp_neg_front_decay": "Perp-Neg: decay of the front",
    "prompting.perp_neg_side_decay": "Perp-Neg: decay of the sides",
    "initialization.count": "Gaussians",
    "initialization.prompt": "Text of the first shape",
    "initialization.turn_deg": "Turn of the first scene",
    "initialization.fit": "Fit a file's Gaussians",
    "initialization.scale": "Standard deviation",
    "densification.enabled": "Densify and prune",
    "densification.grad_threshold": "Gradient threshold",
    "densification.max_count": "Most Gaussians",
    "optimization.beta1": "β₁",
    "optimization.beta2": "β₂",
    "losses.tv_color": "Total variation of the colour",
    "losses.tv_depth": "Total variation of the depth",
    "losses.scale": "Mean scale",
}
HINTS = {  # of the first column: what the paper means by it
    "variants.gamma": "Where TSM's second point μ lies between s and t: μ = s + γ (t − s). 0 is ISM, 1 CSD; the paper: 0.3.",
    "variants.delta_t": "How far t lies beyond s on the DDIM trajectory (the paper's δT): wide steps carry more, and err more.",
    "variants.clip_color": "Largest gradient that a pixel's colour may send back (pixel-wise clipping, Pan et al.).",
    "variants.clip_depth": "The same for depth, in units of the Gaussians' scale (the paper's Eq. 9).",
    "variants.guidance_scale": "Classifier-free guidance: how strongly the prompt pulls. The paper takes 7.5.",
    "iterations": "Steps of Adam for each side.",
    "seed": "The same seed gives the same run.",
}
GROUPS = {
    "": "Model and files",
    "variants": "Trajectory and weight",
    "timesteps": "Timesteps",
    "views": "Views and background",
    "prompting": "Prompts of the views",
    "initialization": "Start",
    "optimization": "Learning rates",
    "densification": "Densification",
    "losses": "Losses",
    "weights": "Weights of the model",
}
HIDDEN_CHOICES = {"initialization.shape": {"file"}}  # a path on the server is not a visitor's to name


@dataclass(frozen=True)
class Column:
    """One component of the form and the setting (or part of one) that it stands for."""

    key: str
    component: Any


@dataclass(frozen=True)
class Control:
    """What is known of a setting before its component is made."""

    name: str
    kind: Any  # its type, without None
    optional: bool
    help: str
    default: Any

    @property
    def label(self) -> str:
        leaf = self.name.rpartition(".")[2]
        words = leaf.removesuffix("_deg").replace("lr_", "rate_of_").replace("_", " ")
        return LABELS.get(self.name, words[:1].upper() + words[1:])


def controls() -> dict[str, Control]:
    """Every setting that the page offers, by dotted name, in the order of the settings."""
    found = {}
    for name, item in leaf_fields():
        kind, optional = _kind(name)
        unit = f" ({item.metadata['unit']})" if item.metadata.get("unit") else ""
        found[name] = Control(name, kind, optional, item.metadata["help"] + unit, item.default)
    return found


def shown(settings: Settings, keys: Iterable[str]) -> list[Any]:
    """The values that the columns of those keys show for some settings. Where sides differ, the last one speaks."""
    return [_shown(settings, key) for key in keys]


def read(base: Settings, keys: Sequence[str], values: Sequence[Any]) -> Settings:
    """Settings from what the columns hold, starting from ``base``. Raises SettingsError with a sentence."""
    form = dict(zip(keys, values, strict=True))
    before = dict(zip(keys, shown(base, keys), strict=True))
    plain = base.to_dict()
    if LEFT in form:
        sides = plain["variants"]
        sides[0]["method"] = form[LEFT]
        if form[RIGHT] == ABSENT:
            del sides[1:]
        elif len(sides) == 1:
            sides.append({**sides[0], "method": form[RIGHT]})
        else:
            sides[1]["method"] = form[RIGHT]
    changes = {}
    for key, value in form.items():
        if key in (LEFT, RIGHT) or key.endswith(IN_USE):
            continue
        switched = form.get(key + IN_USE, True) != before.get(key + IN_USE, True)
        if value != before[key] or switched:
            changes[key] = value if form.get(key + IN_USE, True) else None
    return Settings.from_dict(plain).override(changes)


def live_changes(running: Settings, wanted: Settings, side: int | None = None) -> dict[str, Any]:
    """Names and values of config.Variant that differ on a side (None: on any) and can be given to the run in progress."""
    if len(running.variants) != len(wanted.variants):
        raise SettingsError("The number of sides cannot be changed while a run goes on; start a new run for that.")
    changes = {}
    for index, (old, new) in enumerate(zip(running.variants, wanted.variants, strict=True)):
        if side is not None and index != side:
            continue
        for name in Variant.__dataclass_fields__:
            if getattr(old, name) != getattr(new, name):
                if name == "method":
                    raise SettingsError("The methods cannot be changed while a run goes on; start a new run for that.")
                changes[name] = getattr(new, name)
    return changes


def make_component(control: Control, value: Any, models: Sequence[str] = ()) -> list[Column]:
    """The component of a setting (two where a slider can be switched off), showing that value."""
    name, label = control.name, control.label
    hint = HINTS.get(name, control.help) or None
    if name in SLIDERS:
        low, high, step = SLIDERS[name]
        at = _fallback(control) if value is None else value
        slider = gr.Slider(min(low, at), max(high, at), value=at, step=step, label=label, info=hint, buttons=[])
        slider.preprocess = _as_it_came  # out of range is told by the settings, in a sentence that names the field
        if not control.optional:
            return [Column(name, slider)]
        switch = gr.Checkbox(value is not None, label="on", container=False, elem_classes="switch", min_width=60)
        return [Column(name, slider), Column(name + IN_USE, switch)]
    if name == "model":
        return [Column(name, gr.Dropdown(sorted({*models, value}), value=value, label=label, info=hint))]
    if typing.get_origin(control.kind) is Literal:
        choices = [choice for choice in typing.get_args(control.kind) if choice not in HIDDEN_CHOICES.get(name, ())]
        return [Column(name, gr.Dropdown(choices, value=value, label=label, info=hint))]
    if control.kind is bool:
        return [Column(name, gr.Checkbox(value, label=label, info=hint))]
    if control.kind is str:
        return [Column(name, gr.Textbox(value, label=label, info=hint, lines=1, max_lines=3))]
    number = gr.Number(value, label=label, info=hint, placeholder="off" if control.optional else None)
    return [Column(name, number)]


def method_choices(right: bool) -> list[tuple[str, str]]:
    """Names of the methods as a visitor reads them, and as the settings spell them."""
    choices = [(name.upper(), name) for name in typing.get_args(Method)]
    return [*choices, ("one side only", ABSENT)] if right else choices


def _as_it_came(payload: Any) -> Any:
    return payload


def _kind(name: str) -> tuple[Any, bool]:
    owner, _, leaf = name.rpartition(".")
    section = Settings if not owner else Variant if owner == "variants" else typing.get_type_hints(Settings)[owner]
    kind = typing.get_type_hints(section)[leaf]
    if typing.get_origin(kind) is types.UnionType:
        return next(part for part in typing.get_args(kind) if part is not types.NoneType), True
    return kind, False


def _fallback(control: Control) -> Any:
    return control.default if control.default is not None else SLIDERS[control.name][0]


def _shown(settings: Settings, key: str) -> Any:
    if key == LEFT:
        return settings.variants[0].method
    if key == RIGHT:
        return settings.variants[1].method if len(settings.variants) > 1 else ABSENT
    name = key.removesuffix(IN_USE)
    section, _, leaf = name.rpartition(".")
    owner = settings if not section else settings.variants[-1] if section == "variants" else getattr(settings, section)
    value = getattr(owner, leaf)
    if key.endswith(IN_USE):
        return value is not None
    return _fallback(controls()[name]) if value is None and name in SLIDERS else value
