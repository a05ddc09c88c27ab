"""The page: a Gradio form on the left, the view and what each side computes on the right.

Nothing about a run lives here. A visitor is a token in the browser's storage; once a second the page asks the desk what
is on show and replaces the parts that changed, so a reload, or a second visitor, sees the same run. Whoever opens a past
run or an earlier moment (``looking``) sees that instead, in a view of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dreamerxl.config import Settings, load_preset
from dreamerxl.errors import DreamerError
from dreamerxl.miniature.repertoire import repertoire
from dreamerxl.runs.growth import moments
from dreamerxl.runs.limits import Limits
from dreamerxl.runs.metadata import read_about, settings_of
from dreamerxl.runs.run import VIEW_SHARE, RunView
from dreamerxl.runs.stills import LARGEST, SMALLEST
from dreamerxl.web import cards, shelf, updates
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
from dreamerxl.web.desk import Desk, differing
from dreamerxl.web.lab import add_lab
from dreamerxl.web.offer import Offer, gallery_names, thumbnail
from dreamerxl.web.share import harmless, query_of, settings_of_link
from dreamerxl.web.takeaway import has_scene
from dreamerxl.web.theme import ABSOLUTE, DO, MAKE, PICK

REFRESH_S = 1.0
KEPT_UPLOADS_S = 3600  # what visitors brought is deleted after that
MOST_COMPARED = 4
LONGEST_TOKEN = 100  # characters


def make_panel(desk: Desk, offer: Offer) -> gr.Blocks:
    """The page of a desk."""
    limits = desk.manager.limits
    first = limits.fit(offer.first)
    names = gallery_names("embedded" if first.model == "embedded" else offer.guidance)
    models = sorted({"auto", "embedded", offer.guidance})
    known = controls()
    columns: list[Column] = []

    def add(control: Control) -> None:
        value = shown(first, [control.name])[0] if control.name not in SLIDERS else _slider_value(first, control)
        columns.extend(make_component(control, value, models))

    with gr.Blocks(
        title=cards.NAME, analytics_enabled=False, fill_width=True, delete_cache=(KEPT_UPLOADS_S, KEPT_UPLOADS_S)
    ) as page:
        visitor = gr.BrowserState("", storage_key="dreamerxl-visitor", secret="dreamerxl")
        base = gr.State(first.to_dict())
        looking = gr.State({})  # at the past: run, at (iteration or None), key of the view; empty is the present
        chosen = gr.State([])  # runs to compare
        seen = gr.State({})

        gr.HTML(cards.header(), elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs, gr.Tab("Scenes"), gr.Column(elem_id="page"):
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
                gr.HTML(cards.vocabulary(repertoire()), elem_id="vocabulary")
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
                gr.HTML(cards.methods(), elem_id="methods")
                with gr.Row(elem_id="actions"):
                    run = gr.Button("Run", variant="primary", min_width=80, elem_id="run")
                    pause = gr.Button("Pause", interactive=False, min_width=80, elem_id="pause")
                    stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
                gr.HTML(cards.limits(limits), elem_id="limits", visible=limits != Limits())
                with gr.Column(visible=False, elem_id="live") as live:
                    target = gr.Radio(
                        [("every side", updates.EVERY)], value=updates.EVERY, label="Live changes go to", elem_id="target"
                    )
                    share = gr.Slider(
                        1, 50, 100 * VIEW_SHARE, step=1, label="Time for the view", buttons=[], elem_id="share",
                        info="per cent of the run's time; the rest trains",
                    )  # fmt: skip
                    apply = gr.Button("Apply all changed settings to the run", size="sm", elem_id="apply")
                with gr.Row(elem_id="more"):
                    on = gr.Button("Run on", size="sm", min_width=70, interactive=False, elem_id="on")
                    again = gr.Button("Again", size="sm", min_width=70, interactive=False, elem_id="again")
                    swap = gr.Button("Swap sides", size="sm", min_width=70, elem_id="swap")
                    share_link = gr.Button("Link", size="sm", min_width=60, elem_id="share-link")
                link = gr.Textbox(
                    label="This link restores every setting", visible=False, interactive=False, buttons=["copy"],
                    lines=1, max_lines=2, elem_id="link",
                )  # fmt: skip
                said = gr.HTML(elem_id="said")
            with gr.Column(elem_id="work"):
                status = gr.HTML(cards.status(None, 0, None, offer.model_line), elem_id="status")
                noted = gr.HTML(elem_id="noted")
                with gr.Column(elem_id="stage"):
                    frame = gr.HTML(cards.stage_frame(), elem_id="frame")
                    hint = gr.HTML(cards.hint(None), elem_id="hint")
                with gr.Row(visible=False, elem_id="time") as time_row:
                    moment = gr.Slider(0, 1, 1, step=1, label="Time machine: iteration", buttons=[], elem_id="moment")
                    present = gr.Button("Now", size="sm", min_width=60, scale=0, elem_id="present")
                strips = gr.HTML(cards.strips(None), elem_id="strips")
                curves = gr.HTML(elem_id="curves")
                files = gr.HTML(elem_id="files", js_on_load=MAKE)
                with gr.Row(visible=False, elem_id="shot") as shot_row:
                    shot_width = gr.Number(1920, label="Width", precision=0, minimum=SMALLEST, maximum=LARGEST, min_width=80)
                    shot_height = gr.Number(1080, label="Height", precision=0, minimum=SMALLEST, maximum=LARGEST, min_width=80)
                    shot_azimuth = gr.Number(30, label="Azimuth (degrees)", minimum=-360, maximum=360, min_width=80)
                    shot_elevation = gr.Number(15, label="Elevation (degrees)", minimum=-90, maximum=90, min_width=80)
                    shot = gr.Button("Take a screenshot", size="sm", min_width=120, elem_id="take-shot")
                with gr.Accordion("Past runs", open=limits.replay, elem_id="past") as past:
                    search = gr.Textbox("", label="Search", placeholder="words of the prompt, a method, a date", elem_id="search")
                    listed = shelf.gallery(desk.listed(), None) if limits.replay else ""
                    runs = gr.HTML(listed, elem_id="runs", js_on_load=DO)
                    compared = gr.HTML(elem_id="compared")
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
                kinds = [".png", ".mp4", ".ply", ".glb", ".html"]
                dropped = gr.UploadButton("Settings back from a file", size="sm", file_types=kinds, elem_id="dropped")
                gr.HTML("<p>A picture, film, page or scene that a run made; or drop it anywhere here.</p>", elem_id="drop-hint")
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    for section, title in GROUPS.items():
                        with gr.Accordion(title, open=False):
                            for control in known.values():
                                if control.name.rpartition(".")[0] == section and control.name not in ELSEWHERE:
                                    add(control)

        keys = [column.key for column in columns]
        form = [column.component for column in columns]
        shared = {
            "strips": updates.Remembered(lambda subject: cards.strips(*subject)),
            "curves": updates.Remembered(cards.curves),
        }
        parts = [status, noted, hint, frame, strips, curves, files, run, pause, stop, on, again, live, target]
        parts += [share, time_row, moment, shot_row]

        def seen_by(looking: dict[str, Any]) -> RunView | None:
            return desk.find(looking["run"]) if looking else desk.on_show()

        def refresh(owner: str, looking: dict[str, Any], before: dict[str, Any]) -> list[Any]:
            view = seen_by(looking)
            own = desk.own(owner)
            if looking and view is not None and desk.past.address(looking["key"]) is None:  # others took its place
                with contextlib.suppress(DreamerError):
                    desk.past.show(owner, view, looking["at"])
            at = updates.moment_on_show(view, looking)
            drawn = [
                cards.status(view, len(desk.manager.queue()), own, offer.model_line, own and desk.wait_s(own)),
                cards.notices(view),
                cards.hint(view),
                cards.stage_frame(looking.get("key", "")),
                shared["strips"].of(updates.picture_key(view, at), (view, at)),
                shared["curves"].of(updates.curve_key(view), view),
                shelf.takeaway(view, desk.orders(view.id) if view is not None else {}),
                *updates.buttons(view, own, desk.on_show()),
                *updates.time_machine(view, looking),
                gr.update(visible=view is not None and has_scene(view)),
            ]
            fresh = [new if before.get(str(k)) != updates.short(new) else gr.skip() for k, new in enumerate(drawn)]
            return [*fresh, {str(k): updates.short(new) for k, new in enumerate(drawn)}]

        def fill(wished: Settings) -> list[Any]:
            settings = limits.fit(wished)
            return [
                settings.to_dict(),
                *(_update(key, value, models) for key, value in zip(keys, shown(settings, keys), strict=True)),
            ]

        def unchanged() -> list[Any]:
            return [gr.skip()] * (1 + len(form))

        def arrive(owner: str, request: gr.Request) -> list[Any]:
            owner = _token(owner)
            query = {key: str(value) for key, value in request.query_params.items()}
            at, text, view = {}, "", desk.on_show()
            asked = desk.find(query.get("run"))
            if asked is not None and asked.ended and (view is None or view.id != asked.id):
                with contextlib.suppress(DreamerError):
                    at = {"run": asked.id, "at": None, "key": desk.past.show(owner, asked)}
                    view = asked
            if desk.cut_off(owner):
                text = cards.message("A run was cut off when the program ended; it can go on, from Past runs.", "note")
            is_theirs = view is not None and (limits.replay or view.belongs_to(owner) or view.id == query.get("run"))
            filled = fill(view.settings) if view is not None and is_theirs else unchanged()
            try:
                linked = settings_of_link(query, models)
                filled = fill(offer.settle(linked)) if linked is not None else filled
            except DreamerError as error:
                text = cards.message(str(error))
            return [owner, at, text, *filled]

        def bring(path: str | None) -> list[Any]:
            try:
                settings = harmless(settings_of(read_about(path or "")), models)
            except DreamerError as error:
                return [cards.message(str(error)), *unchanged()]
            return [cards.message("The settings of this file are in the form.", "note"), *fill(offer.settle(settings))]

        def pick(event: gr.EventData) -> list[Any]:
            try:
                return ["", *fill(offer.settle(load_preset(str(event.name))))]
            except DreamerError as error:
                return [cards.message(str(error)), *unchanged()]

        def swap_sides(plain: dict[str, Any], *values: Any) -> list[Any]:
            try:
                settings = read(Settings.from_dict(plain), keys, values)
            except DreamerError as error:
                return [cards.message(str(error)), *unchanged()]
            return ["", *fill(dataclasses.replace(settings, variants=settings.variants[::-1]))]

        def link_to(plain: dict[str, Any], *values: Any) -> list[Any]:
            try:
                query = query_of(read(Settings.from_dict(plain), keys, values))
            except DreamerError as error:
                return [cards.message(str(error)), gr.update(visible=False)]
            return ["", gr.update(value=f"?{query}", visible=True)]

        def wanted(plain: dict[str, Any], values: Sequence[Any]) -> Settings:
            return offer.settle(read(Settings.from_dict(plain), keys, values))

        def start(owner: str, plain: dict[str, Any], *values: Any) -> list[Any]:
            owner = _token(owner)  # pressed, perhaps, before the page had told who it is
            return [owner, _told(lambda: desk.submit(wanted(plain, values), owner)), {}]

        def start_again(owner: str, looking: dict[str, Any]) -> list[Any]:
            owner, view = _token(owner), seen_by(looking)
            return [owner, _told(lambda: desk.again(view.id, owner)) if view is not None else "", {}]

        def run_on(owner: str, looking: dict[str, Any]) -> list[Any]:
            owner, view = _token(owner), seen_by(looking)
            return [owner, _told(lambda: desk.run_on(view.id, owner, updates.more(view))) if view is not None else "", {}]

        def change(owner: str, side: int, plain: dict[str, Any], *values: Any) -> str:
            def give() -> str:
                view = desk.own(owner)
                if view is None:
                    raise DreamerError("There is no run of yours to change.")
                place = None if side == updates.EVERY else side
                changes = live_changes(view.settings, wanted(plain, values), place)
                if not changes:
                    return "Nothing in γ, δT, clipping, guidance or the trajectory differs from what the run uses."
                desk.change(owner, changes, place)
                what = ", ".join(f"{known[f'variants.{name}'].label} = {_plain(value)}" for name, value in changes.items())
                return f"{what} on {'every side' if place is None else view.labels[place]}, from the next iteration on."

            return _told(give)

        def slide(owner: str, side: int, plain: dict[str, Any], *values: Any) -> Any:
            own = desk.own(owner)
            return change(owner, side, plain, *values) if own is not None and own.status != "queued" else gr.skip()

        def scrub(owner: str, looking: dict[str, Any], wanted_at: float) -> list[Any]:
            view = seen_by(looking)
            kept = moments(view.folder / "growth", len(view.settings.variants)) if view is not None else ()
            if view is None or not kept:
                return [gr.skip()] * 3
            at = min(kept, key=lambda iteration: abs(iteration - wanted_at))
            try:
                key = desk.past.show(owner, view, at)
            except DreamerError as error:
                return [gr.skip(), gr.skip(), cards.message(str(error))]
            return [
                {"run": view.id, "at": at, "key": key},
                gr.skip() if looking.get("key") == key else cards.stage_frame(key),
                "",
            ]

        def order(owner: str, looking: dict[str, Any], event: gr.EventData) -> str:
            view = seen_by(looking)
            return _told(lambda: desk.order(view.id, str(event.name))) if view is not None else ""

        def take_shot(looking: dict[str, Any], width: Any, height: Any, azimuth: Any, elevation: Any) -> str:
            view = seen_by(looking)
            if view is None or None in (width, height, azimuth, elevation):
                return cards.message("A screenshot needs a width, a height, an azimuth and an elevation.")
            size = {"width": int(width), "height": int(height), "azimuth_deg": azimuth, "elevation_deg": elevation}
            return _told(lambda: desk.order(view.id, "screenshot.png", **size))

        def list_runs(owner: str, words: str, chosen: list[str]) -> str:
            return shelf.gallery(desk.listed((words or "")[:200]), owner, chosen, desk.cut_off(owner))

        def act(owner: str, words: str, looking: dict[str, Any], chosen: list[str], event: gr.EventData) -> list[Any]:
            """Open, compare, take up or delete a past run: message, looking, chosen, the cards, the comparison, base and form."""
            deed, _, run_id = str(event.name).partition(":")
            text, filled = "", unchanged()
            try:
                view = desk.manager.get(run_id).view
                if deed == "open":
                    now = desk.on_show()
                    same = now is not None and now.id == run_id
                    looking = {} if same else {"run": run_id, "at": None, "key": desk.past.show(owner, view)}
                    filled = fill(harmless(view.settings, models))
                elif deed == "compare":
                    chosen = [other for other in chosen if other != run_id] + [run_id] * (run_id not in chosen)
                    chosen = chosen[-MOST_COMPARED:]
                elif deed == "take-up":
                    looking, filled = {}, fill(desk.take_up(run_id, owner).settings)
                elif deed == "delete":
                    desk.delete(run_id, owner)
                    chosen = [other for other in chosen if other != run_id]
                    looking = {} if looking.get("run") == run_id else looking
            except DreamerError as error:
                text = cards.message(str(error))
            views = [view for view in map(desk.find, chosen) if view is not None]
            table = shelf.comparison(views, differing(views))
            return [text, looking, chosen, list_runs(owner, words, chosen), table, *filled]

        tell = {"fn": refresh, "inputs": [visitor, looking, seen], "outputs": [*parts, seen]}
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        filled = [base, *form]
        with tabs, gr.Tab("Lab"):
            add_lab(desk.lab, visitor, filled, wanted)
        page.load(arrive, visitor, [visitor, looking, said, *filled], **quiet).then(**tell, **quiet)
        gallery.click(pick, None, [said, *filled], **quiet)
        for starting in (run.click, prompt.submit):
            starting(start, [visitor, *filled], [visitor, said, looking], **quiet).then(**tell, **quiet)
        again.click(start_again, [visitor, looking], [visitor, said, looking], **quiet).then(**tell, **quiet)
        on.click(run_on, [visitor, looking], [visitor, said, looking], **quiet).then(**tell, **quiet)
        pause.click(lambda owner: _told(lambda: desk.toggle_pause(owner)), visitor, said, **quiet).then(**tell, **quiet)
        stop.click(lambda owner: _told(lambda: desk.stop(owner)), visitor, said, **quiet).then(**tell, **quiet)
        apply.click(change, [visitor, target, *filled], said, **quiet).then(**tell, **quiet)
        for column in columns:
            if column.key in SLIDERS:
                column.component.release(slide, [visitor, target, *filled], said, **quiet)
        share.release(lambda owner, value: _told(lambda: desk.watch(owner, value / 100)), [visitor, share], said, **quiet)
        swap.click(swap_sides, filled, [said, *filled], **quiet)
        share_link.click(link_to, filled, [said, link], **quiet).then(None, link, link, js=ABSOLUTE)
        dropped.upload(bring, dropped, [said, *filled], **quiet)
        moment.input(scrub, [visitor, looking, moment], [looking, frame, said], trigger_mode="always_last", **quiet)
        present.click(lambda: {}, None, looking, **quiet).then(**tell, **quiet)
        files.click(order, [visitor, looking], said, **quiet).then(**tell, **quiet)
        shot.click(take_shot, [looking, shot_width, shot_height, shot_azimuth, shot_elevation], said, **quiet)
        past.expand(list_runs, [visitor, search, chosen], runs, **quiet)
        search.change(list_runs, [visitor, search, chosen], runs, trigger_mode="always_last", **quiet)
        doing = {"inputs": [visitor, search, looking, chosen], "outputs": [said, looking, chosen, runs, compared, *filled]}
        runs.click(act, **doing, **quiet).then(**tell, **quiet)
        gr.Timer(REFRESH_S).tick(**tell, **quiet)
    return page


def _token(brought: Any) -> str:
    """What a browser brought as its visitor's token, or a new one."""
    return brought if isinstance(brought, str) and 0 < len(brought) <= LONGEST_TOKEN else secrets.token_urlsafe(16)


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


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "off" if value is None else str(value)
