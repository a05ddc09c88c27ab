"""The parts of the page that only show: pure functions from a view of a run to HTML. Whatever a visitor typed is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from dreamerxl.guidance.words import Repertoire
from dreamerxl.runs.limits import Limits
from dreamerxl.runs.run import RunView
from dreamerxl.runs.snapshot import SideSnapshot
from dreamerxl.web.curves import chart, short

NAME = "dreamerxl"
TAGLINE = "Words become 3D Gaussians. Two distillation methods, one seed, side by side."

PICTURES = {  # of a side: caption, explanation
    "render": ("Render", "what the method saw in the last iteration"),
    "depth": ("Depth", "near is bright"),
    "x0_hat": ("Pseudo ground truth x̂₀", "where the diffusion model would take this view in one step"),
    "gradient": ("Gradient", "at the image, before clipping; one scale for all sides"),
    "clipped": ("Clipped", "the same gradient after clipping"),
}
STATES = {
    "queued": "Waiting",
    "loading": "Loading the model",
    "running": "Training",
    "paused": "Paused",
    "stopped": "Stopped",
    "done": "Done",
    "failed": "Failed",
}
CHARTS = (  # metric, of every iteration or of the moments of the growth, title, logarithmic, explanation
    ("grad_norm", False, "Gradient norm", True, "of the loss at the image, before clipping"),
    ("judge", True, "Judge score", False, "how well renders of the whole object fit the prompt, by the model's own judge"),
    (
        "neighbours",
        True,
        "Neighbouring views",
        False,
        "difference of renders 15° apart: a new face on every side scores high",
    ),
    ("count", False, "Gaussians", False, "how many there are on each side"),
)
METHODS = {
    "SDS": "Score distillation (DreamFusion): random noise is added; the gradient is the model's guess of it minus the noise.",
    "CSD": "Classifier score distillation: only the part that the prompt adds to the guess.",
    "ISM": "Interval score matching (LucidDreamer): guesses at two neighbouring points, s and t, of an inverted DDIM trajectory.",
    "TSM": "Trajectory score matching, the paper's: from x_s one step to t and one to μ; the guesses there are compared.",
    "VSD": "Variational score distillation (ProlificDreamer): the guess minus that of a copy which learns the run's own renders.",
}
STEPS = (
    ("Choose", "Pick a preset, or say in words what to make."),
    ("Set", "γ, δT and the clipping thresholds shape the gradient; both sides share seed, views, timesteps and noise."),
    ("Run", "Watch ISM and TSM grow under one camera. Drag to orbit, scroll to zoom."),
)

GUIDE = (
    (
        "Two objects, one prompt",
        "Each side is a cloud of soft blobs, 3D Gaussians, that a diffusion model pulls into the shape of the words. Both start "
        "from the same dust and see the same views and noise.",
    ),
    (
        "Two ways to pull",
        "ISM compares two points that follow each other on a path through noise. TSM, the paper's, starts two paths at the same "
        "point and compares their ends, so that their common error cancels. γ says where the second one ends; at γ = 0 both "
        "methods are the same.",
    ),
    (
        "Look inside",
        "Under the view: what each side rendered, where the model would take it (x̂₀), and the gradient before and after "
        "clipping. Move γ while it trains, scrub back in time, and take pictures, films and scenes away.",
    ),
)

LONGEST_SIDE = 256  # of a picture in the strips, pixels


def side_labels(view: RunView) -> tuple[str, ...]:
    """Short names of the sides, with gamma where the method uses it: 'ISM', 'TSM γ 0.3'."""
    pairs = zip(view.labels, view.settings.variants, strict=True)
    plain = (f"{label} gamma {side.gamma:g}" if label == "TSM" else label for label, side in pairs)
    return tuple(label.replace("gamma", "γ").replace("delta_t", "δT") for label in plain)


def header() -> str:
    """Name and one line of what this is."""
    steps = "".join(f"<li><b>{title}</b><span>{text}</span></li>" for title, text in GUIDE)
    return (
        f'<header><h1>{NAME}</h1><p>{TAGLINE}</p><button type="button" id="ask-guide">What am I looking at?</button></header>'
        f'<dialog id="guide" aria-label="What am I looking at?"><h2>What am I looking at?</h2><ol class="steps">{steps}</ol>'
        '<form method="dialog"><button>Let me see</button></form></dialog>'
    )


def vocabulary(repertoire: Repertoire) -> str:
    """What the embedded model can be asked for, folded up under the prompt."""
    things = sum(len(names) for names in repertoire.things.values())
    groups = {**repertoire.things, **repertoire.qualities}
    rows = "".join(f"<dt>{escape(group)}</dt><dd>{escape(', '.join(names))}</dd>" for group, names in groups.items())
    summary = f"The {things} things that the embedded model knows"
    return f"<details><summary>{summary}</summary><dl>{rows}</dl></details>"


def methods() -> str:
    """What the names of the methods stand for, folded up under their choice."""
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in METHODS.items())
    return f"<details><summary>What the methods do</summary><dl>{rows}</dl></details>"


def stage_frame(past: str = "") -> str:
    """The 3D view: the run in progress, or the visitor's view of the past of that key. Its address is relative, so that it
    holds behind a sub-path."""
    source = f"past/{escape(past)}/" if past else "viewer/"
    return f'<iframe id="view" src="{source}" title="3D view of both sides" allow="fullscreen"></iframe>'


def hint(view: RunView | None) -> str:
    """What to do first, over the view; the view itself names the sides."""
    return "<p>Ready. Press <b>Run</b> and this dust becomes two objects.</p>" if view is None else ""


def status(view: RunView | None, waiting: int, own: RunView | None, model: str, wait_s: float | None = None) -> str:
    """One line: state, model, iteration, pace, time left, queue; under it the progress. wait_s: until the visitor's own run
    is expected to begin."""
    if view is None:
        return _status_line("ready", "Ready", [model], 0.0)
    facts = [f'<q title="{escape(view.settings.prompt)}">{escape(view.settings.prompt)}</q>']
    if view.stage:
        facts.append(escape(view.stage))
    if view.model:
        facts.append(f"{escape(view.model)} on {escape(view.device.upper() if view.device == 'cpu' else view.device)}")
    if view.iteration or view.status in ("running", "paused"):
        facts.append(f"<b>{view.iteration:,}</b> of {view.iterations:,}")
    if view.status == "running" and view.its_per_s > 0:
        facts.append(pace(view.its_per_s))
        facts.append(f"{duration(view.eta_s)} left")
    if own is not None and own.id != view.id:
        facts.append(
            "<b>yours is next</b>" if own.queue_position == 1 else f"<b>yours is number {own.queue_position}</b> in the queue"
        )
        if wait_s is not None:
            facts.append(f"begins in about {duration(wait_s)}")
    elif waiting:
        facts.append(f"{waiting} waiting")
    return _status_line(view.status, STATES[view.status], facts, view.iteration / view.iterations, view.id)


def _status_line(state: str, text: str, facts: list[str], share: float, run_id: str = "") -> str:
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    return (
        f'<div class="status {state}" data-run="{run_id}"><p class="state">{text}</p><ul>{items}</ul>'
        f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}" '
        f'aria-label="Progress of the run"><i style="width:{100 * share:.1f}%"></i></div></div>'
    )


def pace(its_per_s: float) -> str:
    """Iterations a second, or seconds an iteration where it is slower than that."""
    return f"{its_per_s:.1f} it/s" if its_per_s >= 1 else f"{1 / max(its_per_s, 1e-9):.1f} s/it"


def duration(seconds: float) -> str:
    """0:42, 12:05, 3:07:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def message(text: str, kind: str = "error") -> str:
    """A sentence in the banner (kind: error or note); nothing for no text."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="banner {kind}" role="{role}">{escape(text)}</p>'


def limits(limits: Limits) -> str:
    """What may be asked for here."""
    if limits.replay:
        return message("A replay: finished runs are shown and none is made. Others are under Past runs.", "note")
    parts = []
    if limits.iterations is not None:
        parts.append(f"at most {limits.iterations:,} iterations a run")
    if limits.seconds is not None:
        parts.append(f"{limits.seconds:,} s of training")
    if limits.gaussians is not None:
        parts.append(f"{limits.gaussians:,} Gaussians on a side")
    if limits.pixels is not None:
        parts.append(f"{limits.pixels:,} pixels an iteration")
    if limits.own is not None:
        parts.append(f"{limits.own} at a time for each visitor")
    parts.append(f"{limits.waiting} in the queue")
    if limits.kept is not None:
        parts.append(f"the newest {limits.kept:,} runs are kept")
    return message(f"Here: {', '.join(parts)}.", "note")


def notices(view: RunView | None) -> str:
    """What the run has to say: why it failed or stopped, unknown words, the model that was chosen."""
    if view is None:
        return ""
    kind = "error" if view.status == "failed" else "note"
    return message(view.reason, kind) + "".join(message(text, "note") for text in view.notices)


def strips(view: RunView | None, at: int | None = None) -> str:
    """For each side the pictures of its last view, or those kept with the moment of iteration ``at``; before there is a run,
    the three steps of using the page."""
    if view is None:
        steps = "".join(f"<li><b>{title}</b><span>{text}</span></li>" for title, text in STEPS)
        return f'<ol class="steps">{steps}</ol>'
    labels = side_labels(view)
    if at is not None:
        sides = [_strip(index, label, f"iteration {at:,}", _kept(view, at, index)) for index, label in enumerate(labels)]
    elif view.snapshot is None:
        if view.ended:
            return ""
        sides = [_strip(index, label, "", _blank()) for index, label in enumerate(labels)]
    else:
        pairs = zip(labels, view.snapshot.sides, strict=False)
        sides = [_strip(index, label, _steps_text(side), _pictures(label, side)) for index, (label, side) in enumerate(pairs)]
    return f'<div class="strips">{"".join(sides)}</div>'


def curves(view: RunView | None) -> str:
    """Curves of every side over the iterations, one chart a quantity, with the live changes marked."""
    if view is None or not view.history.iterations:
        return ""
    labels = side_labels(view)
    changes = [(event.iteration, event.text) for event in view.events if event.kind == "changed"]
    charts = ""
    for metric, of_moments, title, logarithmic, help in CHARTS:
        source = view.marks if of_moments else view.history
        series = [(label, side.get(metric, ())) for label, side in zip(labels, source.sides, strict=False)]
        if any(values for _, values in series):
            options: dict[str, Any] = {"logarithmic": logarithmic, "changes": changes, "help": help}
            charts += chart(title, source.iterations, series, view.iterations, **options)
    return f'<div class="charts">{charts}</div>'


def presets(entries: Sequence[tuple[str, str, str]]) -> str:
    """Buttons of the gallery; an entry is (name, description, picture as a data address or '')."""
    return (
        '<div class="presets" role="group" aria-label="Presets">'
        + "".join(
            f'<button type="button" data-preset="{escape(name)}" title="{escape(description)}" aria-pressed="false">'
            + (f'<img src="{picture}" alt="">' if picture else "")
            + f"<span>{escape(name.replace('_', ' ').replace('-', ' '))}</span></button>"
            for name, description, picture in entries
        )
        + "</div>"
    )


def data_address(pixels: np.ndarray) -> str:
    """An image [H, W, 3] uint8 as an address that holds it, no larger than it is shown."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=86, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _strip(index: int, label: str, detail: str, pictures: str) -> str:
    return (
        f'<section class="strip side{index}" aria-label="{escape(label)}"><h2>{escape(label)}<small>{detail}</small></h2>'
        f"<div>{pictures}</div></section>"
    )


def _steps_text(side: SideSnapshot) -> str:
    """The timesteps of the last iteration and the norms of its gradient."""
    metrics = side.metrics
    parts = [f"{symbol} {metrics[name]:.0f}" for name, symbol in (("t", "t"), ("s", "s"), ("mu", "μ")) if name in metrics]
    if "grad_norm" in metrics and "clipped_norm" in metrics:
        parts.append(f"|g| {short(metrics['grad_norm'])} → {short(metrics['clipped_norm'])}")
    return " · ".join(parts)


def _pictures(label: str, side: SideSnapshot) -> str:
    return "".join(
        f'<figure title="{escape(explanation)}"><img src="{data_address(getattr(side, name))}" '
        f'alt="{escape(caption)} of {escape(label)}"><figcaption>{caption}</figcaption></figure>'
        for name, (caption, explanation) in PICTURES.items()
    )


def _blank() -> str:
    return "".join(
        f'<figure title="{escape(explanation)}"><i class="blank"></i><figcaption>{caption}</figcaption></figure>'
        for caption, explanation in PICTURES.values()
    )


def _kept(view: RunView, at: int, index: int) -> str:
    """The pictures of a side that were kept with a moment, cut from the row that they stand in."""
    address = f"runs/{view.id}/files/{at:07d}-{index}.jpg"
    last = len(PICTURES) - 1
    return "".join(
        f'<figure title="{escape(explanation)}"><i class="blank" role="img" aria-label="{escape(caption)}" '
        f"style=\"background: url('{address}') {100 * place / last:g}% 0 / {100 * (last + 1)}% 100%\"></i>"
        f"<figcaption>{caption}</figcaption></figure>"
        for place, (caption, explanation) in enumerate(PICTURES.values())
    )
