"""The Lab tab: the toy with its sliders, figures and small sweeps made in the queue, and what came of them. Text is escaped.

Figures take the settings of the form in the other tab as they stand when the button is pressed.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any

import gradio as gr

from dreamerxl.config import Settings, leaf_fields
from dreamerxl.errors import DreamerError
from dreamerxl.lab.figures import FIGURES, TOYS
from dreamerxl.lab.toy import ToySettings
from dreamerxl.lab.toy_figures import figure_3
from dreamerxl.web.cards import message
from dreamerxl.web.lab_desk import SWEEP, Job, LabDesk, typed_sweep
from dreamerxl.web.theme import DO

REFRESH_S = 1.5
TOY_POINTS = 120  # fewer than the figure's: 0.15 s a picture
NAMES = {"2": "Figure 2", "3": "Figure 3", "6": "Figure 6", "7": "Figure 7", "proposition": "Proposition 1"}
NAMES |= {"modes": "SDS and VSD", "blue": "Blue cast", SWEEP: "Sweep"}
STATES = {"queued": "Waiting for its turn", "working": "Being made", "done": "", "failed": "Failed", "stopped": "Stopped"}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def add_lab(
    lab: LabDesk, visitor: gr.BrowserState, form: Sequence[Any], wanted: Callable[[dict[str, Any], Sequence[Any]], Settings]
) -> None:
    """Fill the tab. ``form``: the page's base and columns; ``wanted`` makes settings of what they hold."""
    seen = gr.State("")
    with gr.Column(elem_id="lab"):
        with gr.Row(elem_id="toy"):
            with gr.Column(elem_id="toy-sliders"):
                gr.HTML(TOY)
                t = gr.Slider(2, 999, 900, step=1, label="t", buttons=[])
                s = gr.Slider(1, 998, 800, step=1, label="s", buttons=[])
                mu = gr.Slider(1, 999, 810, step=1, label="μ · of TSM, from s (where it is ISM) to t", buttons=[])
                delta_s = gr.Slider(1, 999, 200, step=1, label="δS · inversion step", buttons=[])
            picture = gr.HTML(toy_picture(900, 800, 810, 200), elem_id="toy-picture")
        figures = gr.HTML(figure_cards(), elem_id="lab-figures", js_on_load=DO)
        with gr.Column(elem_id="sweep"):
            gr.HTML(SWEEPS)
            with gr.Row():
                names = [(name.rpartition(".")[2], name) for name, _ in leaf_fields() if name.startswith("variants.")]
                setting = gr.Dropdown(names, value="variants.gamma", label="Setting of the last side", min_width=180)
                values = gr.Textbox("0, 0.3, 1", label="Values", info="apart by commas; the first is the baseline", max_lines=1)
                seeds = gr.Number(1, label="Seeds", precision=0, minimum=1, maximum=3, min_width=80)
            prompts = gr.Textbox("", label="Prompts", info="one a line; empty: the form's", lines=2, max_lines=8)
            run = gr.Button("Run the sweep", size="sm", min_width=120, elem_id="run-sweep")
        said = gr.HTML()
        made = gr.HTML(elem_id="lab-made", js_on_load=DO)

    def list_jobs(owner: str, before: str) -> list[Any]:
        drawn = job_cards(lab.jobs(), owner)
        return [gr.skip(), before] if drawn == before else [drawn, drawn]

    def make(owner: str, event: gr.EventData, plain: dict[str, Any], *values: Any) -> list[Any]:
        owner = owner or secrets.token_urlsafe(16)
        try:
            lab.order(str(event.name).partition(":")[2], wanted(plain, values), owner)
        except DreamerError as error:
            return [owner, message(str(error))]
        return [owner, ""]

    def run_sweep(owner: str, name: str, texts: str, lines: str, count: Any, plain: dict[str, Any], *held: Any) -> list[Any]:
        owner = owner or secrets.token_urlsafe(16)
        try:
            sweep = typed_sweep(wanted(plain, held), str(name), (texts or "")[:1000], (lines or "")[:10_000], int(count or 0))
            lab.order_sweep(sweep, owner)
        except DreamerError as error:
            return [owner, message(str(error))]
        return [owner, ""]

    def act(owner: str, event: gr.EventData) -> str:
        deed, _, job_id = str(event.name).partition(":")
        try:
            (lab.stop if deed == "stop" else lab.delete)(job_id, owner)
        except DreamerError as error:
            return message(str(error))
        return ""

    listing = {"fn": list_jobs, "inputs": [visitor, seen], "outputs": [made, seen]}
    sliders = [t, s, mu, delta_s]
    for slider in sliders:
        slider.input(toy_picture, sliders, picture, trigger_mode="always_last", **QUIET)
    figures.click(make, [visitor, *form], [visitor, said], **QUIET).then(**listing, **QUIET)
    run.click(run_sweep, [visitor, setting, values, prompts, seeds, *form], [visitor, said], **QUIET).then(**listing, **QUIET)
    made.click(act, visitor, said, **QUIET).then(**listing, **QUIET)
    gr.Timer(REFRESH_S).tick(**listing, **QUIET)


TOY = (
    "<h2>The toy of Figure 3</h2><p>Eight Gaussians in the plane, whose noise is predicted exactly: what is left of ISM and TSM "
    "is the error of DDIM's finite steps. <b>Carried</b>: the gap of the x₀ from which the two points were stepped; TSM makes it "
    "0 by construction. <b>Predicted</b>: the gap of what is predicted at the points, which the gradient sees.</p>"
)


SWEEPS = (
    "<h2>A sweep</h2><p>The form's run under several values of one setting, on the same prompts, seeds, views, timesteps and "
    "noise. What differs is reported with 95 % confidence intervals of the paired differences. Larger ones: "
    "<code>python -m dreamerxl sweep</code>.</p>"
)


def toy_picture(t: float, s: float, mu: float, delta_s: float) -> str:
    """Figure 3 for what the sliders say (s is held below t, and mu between them), with links to its picture and numbers."""
    t = min(max(int(t), 2), 999)
    s = min(max(int(s), 1), t - 1)
    mu = min(max(int(mu), s), t)
    settings = ToySettings(t, s, tuple(sorted({s, mu})), min(max(int(delta_s), 1), 999), TOY_POINTS)
    svg, data = figure_3(settings)
    told = json.dumps({"settings": dataclasses.asdict(settings), "data": data}, indent=1)
    links = "".join(
        f'<a download="{name}" href="data:{kind};base64,{base64.b64encode(text.encode()).decode()}">{words}</a>'
        for name, kind, text, words in (
            ("toy.svg", "image/svg+xml", svg, "Picture"),
            ("toy.json", "application/json", told, "Data and settings"),
        )
    )
    return f'{svg}<p class="files">{links}</p>'


def figure_cards() -> str:
    """A card for each figure that can be made."""
    cards = "".join(
        f"<article><h3>{escape(NAMES[name])}</h3><p>{escape(text[:1].upper() + text[1:])}.</p>"
        f'<button type="button" data-do="make:{name}">Make</button>'
        f"<small>{'no model needed' if name in TOYS else 'in the queue, by the form&#39;s settings'}</small></article>"
        for name, (text, _) in FIGURES.items()
    )
    return (
        "<h2>Figures</h2><p>Each is made with the prompt, method, iterations and seed of the form, takes its turn among the "
        f'runs, and can be saved with its numbers and settings.</p><div class="figures">{cards}</div>'
    )


def job_cards(jobs: Sequence[Job], owner: str | None) -> str:
    """What was asked for, newest first, with its picture and files once it is there."""
    return "".join(_job_card(job, job.belongs_to(owner)) for job in jobs)


def _job_card(job: Job, own: bool) -> str:
    made = datetime.fromtimestamp(job.created, timezone.utc).strftime("%d %b %H:%M")
    title = " · ".join(part for part in (NAMES[job.name], job.prompt, made) if part)
    stage = " · ".join(part for part in (STATES[job.status], job.stage) if part)
    deed = ("delete", "Delete") if job.ended else ("stop", "Stop")
    button = f'<button type="button" data-do="{deed[0]}:{job.id}">{deed[1]}</button>' if own else ""
    files = "".join(f'<a href="lab/{job.id}/files/{escape(name)}" download>{escape(name)}</a>' for name in job.files)
    picture = ""
    if job.files:
        address = f"lab/{job.id}/files/{escape(job.files[0])}"
        picture = (
            f'<a href="{address}" target="_blank" rel="noopener"><img src="{address}" alt="{escape(title)}" loading="lazy"></a>'
        )
    return (
        f'<article data-job="{job.id}"><header><b>{escape(title)}</b><span role="status">{escape(stage)}</span>{button}</header>'
        f'{picture}<p class="files">{files}</p></article>'
    )
