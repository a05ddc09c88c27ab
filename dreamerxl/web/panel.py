"""The page: a Gradio form on the left, the view and what each side computes on the right.

Nothing about a run lives here. A visitor is a token in the browser's storage; once a second the page asks the desk what
is on show and replaces the parts that changed, so a reload, or a second visitor, sees the same run.
"""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from dreamerxl.config import BASES, PRESETS, Settings, load_preset, preset_names
from dreamerxl.errors import DreamerError
from dreamerxl.guidance.models import EMBEDDED
from dreamerxl.runs.run import RunView
from dreamerxl.web import cards
from dreamerxl.web.controls import (
    ELSEWHERE,
    GROUPS,
    LEFT,
    MAIN,
    RIGHT,
    SLIDERS,
    Column,
    Control,
    controls,
    live_changes,
    make_component,
    method_choices,
    read,
    shown,
)
from dreamerxl.web.desk import Desk

REFRESH_S = 1.0
FIRST = "mushroom"  # the preset that the form opens with
THUMBNAIL = 96  # pixels


class Remembered:
    """One value under its key, made again when the key changes: what every visitor sees is drawn once."""

    def __init__(self, make: Callable[[Any], str]):
        self._make = make
        self._entry: tuple[Hashable, str] = (None, "")

    def of(self, key: Hashable, subject: Any) -> str:
        entry = self._entry
        if key is None or entry[0] != key:
            entry = self._entry = (key, self._make(subject))
        return entry[1]


@dataclass(frozen=True)
class Offer:
    """What the program was started with: the first form, and what 'auto' means for the model and the device."""

    first: Settings
    guidance: str = "auto"
    device: str = "auto"
    model_line: str = ""  # which model that is, in words

    def settle(self, settings: Settings) -> Settings:
        """The same settings with every 'auto' replaced by what the program was started with."""
        changes = {}
        if settings.model == "auto":
            changes["model"] = self.guidance
        if settings.device == "auto":
            changes["device"] = self.device
        return settings.override(changes)


def make_panel(desk: Desk, offer: Offer) -> gr.Blocks:
    """The page of a desk."""
    first = offer.first
    names = gallery_names(first.model == "embedded")
    models = sorted({"auto", "embedded", offer.guidance})
    known = controls()
    columns: list[Column] = []

    def add(control: Control) -> None:
        value = shown(first, [control.name])[0] if control.name not in SLIDERS else _slider_value(first, control)
        columns.extend(make_component(control, value, models))

    with gr.Blocks(title=cards.NAME, analytics_enabled=False, fill_width=True) as page:
        visitor = gr.BrowserState("", storage_key="dreamerxl-visitor", secret="dreamerxl")
        base = gr.State(first.to_dict())
        asked = gr.State("")  # the run named in the address
        seen = gr.State({})

        gr.HTML(cards.header(), elem_id="header")
        with gr.Column(elem_id="page"):
            with gr.Column(elem_id="ask"):
                prompt = gr.Textbox(
                    first.prompt,
                    label="Prompt",
                    lines=2,
                    max_lines=4,
                    placeholder="a DSLR photo of a red mushroom",
                    autofocus=False,
                )
                columns.append(Column("prompt", prompt))
                gallery = gr.HTML(
                    cards.presets([(name, load_preset(name).description, thumbnail(name)) for name in names]),
                    elem_id="gallery",
                    js_on_load=PICK,
                    visible=bool(names),
                )
                with gr.Row(elem_id="sides"):
                    left = gr.Dropdown(method_choices(False), value=shown(first, [LEFT])[0], label="Left method", min_width=100)
                    right = gr.Dropdown(method_choices(True), value=shown(first, [RIGHT])[0], label="Right method", min_width=100)
                columns += [Column(LEFT, left), Column(RIGHT, right)]
                with gr.Row(elem_id="actions"):
                    run = gr.Button("Run", variant="primary", min_width=80, elem_id="run")
                    pause = gr.Button("Pause", interactive=False, min_width=80, elem_id="pause")
                    stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
                apply = gr.Button("Apply to the run in progress", size="sm", visible=False, elem_id="apply")
                said = gr.HTML(elem_id="said")
            with gr.Column(elem_id="work"):
                status = gr.HTML(cards.status(None, 0, None, offer.model_line), elem_id="status")
                noted = gr.HTML(elem_id="noted")
                with gr.Column(elem_id="stage"):
                    gr.HTML(cards.stage_frame(), elem_id="frame")
                    hint = gr.HTML(cards.hint(None), elem_id="hint")
                strips = gr.HTML(cards.strips(None), elem_id="strips")
                curves = gr.HTML(elem_id="curves")
                files = gr.HTML(elem_id="files")
            with gr.Column(elem_id="tune"):
                for name in MAIN:
                    if name in ("variants.clip_color", "variants.clip_depth"):
                        with gr.Row(elem_classes="switched"):
                            add(known[name])
                    elif name == "iterations":
                        with gr.Row(elem_classes="pair"):
                            add(known["iterations"])
                            add(known["seed"])
                    elif name != "seed":
                        add(known[name])
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    for section, title in GROUPS.items():
                        with gr.Accordion(title, open=False):
                            for control in known.values():
                                if control.name.rpartition(".")[0] == section and control.name not in ELSEWHERE:
                                    add(control)

        keys = [column.key for column in columns]
        form = [column.component for column in columns]
        shared = {"strips": Remembered(cards.strips), "curves": Remembered(cards.curves)}
        parts = [status, noted, hint, strips, curves, files, run, pause, stop, apply]

        def refresh(owner: str, run_id: str, before: dict[str, Any]) -> list[Any]:
            view = desk.on_show() or desk.find(run_id)
            own = desk.own(owner)
            drawn = [
                cards.status(view, len(desk.manager.queue()), own, offer.model_line),
                cards.notices(view),
                cards.hint(view),
                shared["strips"].of(_picture_key(view), view),
                shared["curves"].of(_curve_key(view), view),
                cards.downloads(view),
                *_buttons(view, own),
            ]
            updates = [new if before.get(str(k)) != _short(new) else gr.skip() for k, new in enumerate(drawn)]
            return [*updates, {str(k): _short(new) for k, new in enumerate(drawn)}]

        def fill(settings: Settings) -> list[Any]:
            return [
                settings.to_dict(),
                *(_update(key, value, models) for key, value in zip(keys, shown(settings, keys), strict=True)),
            ]

        def arrive(owner: str, request: gr.Request) -> list[Any]:
            owner = owner or secrets.token_urlsafe(16)
            run_id = str(request.query_params.get("run") or "")
            view = desk.on_show() or desk.find(run_id)
            filled = fill(view.settings) if view is not None else [gr.skip()] * (1 + len(form))
            return [owner, run_id, *filled]

        def pick(event: gr.EventData) -> list[Any]:
            try:
                return ["", *fill(offer.settle(load_preset(str(event.name))))]
            except DreamerError as error:
                return [cards.message(str(error)), *[gr.skip()] * (1 + len(form))]

        def wanted(plain: dict[str, Any], values: Sequence[Any]) -> Settings:
            return offer.settle(read(Settings.from_dict(plain), keys, values))

        def start(owner: str, plain: dict[str, Any], *values: Any) -> list[str]:
            owner = owner or secrets.token_urlsafe(16)  # pressed before the page had told who it is
            return [owner, _told(lambda: desk.submit(wanted(plain, values), owner))]

        def change(owner: str, plain: dict[str, Any], *values: Any) -> str:
            def give() -> str:
                view = desk.own(owner)
                if view is None:
                    raise DreamerError("There is no run of yours to change.")
                changes = live_changes(view.settings, wanted(plain, values))
                if not changes:
                    return "Nothing in γ, δT, clipping, guidance or the trajectory differs from what the run uses."
                desk.change(owner, changes)
                return "The run uses the changed settings from its next iteration on."

            return _told(give)

        again = {"fn": refresh, "inputs": [visitor, asked, seen], "outputs": [*parts, seen]}
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        page.load(arrive, visitor, [visitor, asked, base, *form], **quiet).then(**again, **quiet)
        gallery.click(pick, None, [said, base, *form], **quiet)
        run.click(start, [visitor, base, *form], [visitor, said], **quiet).then(**again, **quiet)
        prompt.submit(start, [visitor, base, *form], [visitor, said], **quiet).then(**again, **quiet)
        pause.click(lambda owner: _told(lambda: desk.toggle_pause(owner)), visitor, said, **quiet).then(**again, **quiet)
        stop.click(lambda owner: _told(lambda: desk.stop(owner)), visitor, said, **quiet).then(**again, **quiet)
        apply.click(change, [visitor, base, *form], said, **quiet).then(**again, **quiet)
        gr.Timer(REFRESH_S).tick(**again, **quiet)
    return page


PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-preset]');
  if (!button) return;
  for (const other of element.querySelectorAll('button[data-preset]')) other.setAttribute('aria-pressed', other === button);
  trigger('click', {name: button.dataset.preset});
});
"""


def first_settings(source: str) -> Settings:
    """What the form holds at first: a preset of the embedded model where that is what runs, else the paper's settings."""
    names = gallery_names(embedded=True)
    if source == str(EMBEDDED) and names:
        return load_preset(FIRST if FIRST in names else names[0])
    return Settings()


def gallery_names(embedded: bool) -> list[str]:
    """Presets for the gallery, without those that only serve as the base of others: the embedded model's, and before them
    those of the large models where these run."""
    names = [name for name in preset_names() if name not in BASES]
    own = [name for name in names if load_preset(name).model == "embedded"]
    return own if embedded else [*(name for name in names if name not in own), *own]


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


def _told(action: Callable[[], Any]) -> str:
    """Banner of an action: its own sentence if it has one, that of the error if it fails, else nothing."""
    try:
        outcome = action()
    except DreamerError as error:
        return cards.message(str(error))
    return cards.message(outcome, "note") if isinstance(outcome, str) else ""


def _slider_value(settings: Settings, control: Control) -> Any:
    """What a slider starts from: None where its setting is switched off."""
    return getattr(settings.variants[-1], control.name.rpartition(".")[2])


def _update(key: str, value: Any, models: Sequence[str]) -> Any:
    if key in SLIDERS:
        low, high, _ = SLIDERS[key]
        return gr.update(value=value, minimum=min(low, value), maximum=max(high, value))
    if key == "model":
        return gr.update(value=value, choices=sorted({*models, value}))
    return gr.update(value=value)


def _buttons(view: RunView | None, own: RunView | None) -> list[Any]:
    """Run, Pause, Stop and Apply for this visitor."""
    going = view is not None and not view.ended
    active = own is not None and own.status in ("running", "paused")
    waiting = own is not None and own.status == "queued"
    return [
        gr.update(value="Queue" if going else "Run", variant="secondary" if own is not None else "primary"),
        gr.update(value="Resume" if own is not None and own.status == "paused" else "Pause", interactive=active),
        gr.update(
            value="Withdraw" if waiting else "Stop", interactive=own is not None, variant="stop" if active else "secondary"
        ),
        gr.update(visible=active),
    ]


def _picture_key(view: RunView | None) -> Hashable:
    if view is None:
        return "nothing"
    return view.id, view.labels, view.snapshot.iteration if view.snapshot is not None else None


def _curve_key(view: RunView | None) -> Hashable:
    if view is None:
        return "nothing"
    return view.id, view.labels, view.history.iterations[-1:] if view.history.iterations else None, len(view.history.iterations)


def _short(drawn: Any) -> str:
    """What is kept of a part to see whether it changed."""
    return str(hash(repr(drawn)))
