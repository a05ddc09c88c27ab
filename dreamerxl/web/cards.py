"""The parts of the page that only show: pure functions from a view of a run to HTML. Whatever a visitor typed is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

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
STEPS = (
    ("Choose", "Pick a preset, or say in words what to make."),
    ("Set", "γ, δT and the clipping thresholds shape the gradient; both sides share seed, views, timesteps and noise."),
    ("Run", "Watch ISM and TSM grow under one camera. Drag to orbit, scroll to zoom."),
)

LONGEST_SIDE = 256  # of a picture in the strips, pixels


def side_labels(view: RunView) -> tuple[str, ...]:
    """Short names of the sides, with gamma where the method uses it: 'ISM', 'TSM γ 0.3'."""
    pairs = zip(view.labels, view.settings.variants, strict=True)
    plain = (f"{label} gamma {side.gamma:g}" if label == "TSM" else label for label, side in pairs)
    return tuple(label.replace("gamma", "γ").replace("delta_t", "δT") for label in plain)


def header() -> str:
    """Name and one line of what this is."""
    return f"<header><h1>{NAME}</h1><p>{TAGLINE}</p></header>"


def stage_frame() -> str:
    """The 3D view. Its address is relative, so that it holds behind a sub-path."""
    return '<iframe id="view" src="viewer/" title="3D view of both sides" allow="fullscreen"></iframe>'


def hint(view: RunView | None) -> str:
    """What to do first, over the view; the view itself names the sides."""
    return "<p>Ready. Press <b>Run</b> and this dust becomes two objects.</p>" if view is None else ""


def status(view: RunView | None, waiting: int, own: RunView | None, model: str) -> str:
    """One line: state, model, iteration, pace, time left, queue; under it the progress."""
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


def notices(view: RunView | None) -> str:
    """What the run has to say: why it failed or stopped, unknown words, the model that was chosen."""
    if view is None:
        return ""
    kind = "error" if view.status == "failed" else "note"
    return message(view.reason, kind) + "".join(message(text, "note") for text in view.notices)


def strips(view: RunView | None) -> str:
    """For each side the pictures of its last view; before there are any, the three steps of using the page."""
    if view is None:
        steps = "".join(f"<li><b>{title}</b><span>{text}</span></li>" for title, text in STEPS)
        return f'<ol class="steps">{steps}</ol>'
    if view.snapshot is None:
        sides = [_strip(index, label, "", _blank()) for index, label in enumerate(side_labels(view))]
    else:
        pairs = zip(side_labels(view), view.snapshot.sides, strict=False)
        sides = [_strip(index, label, _steps_text(side), _pictures(label, side)) for index, (label, side) in enumerate(pairs)]
    return f'<div class="strips">{"".join(sides)}</div>'


def curves(view: RunView | None) -> str:
    """Gradient norm and number of Gaussians of every side over the iterations."""
    if view is None or not view.history.iterations:
        return ""
    history, labels = view.history, side_labels(view)

    def series(metric: str) -> list[tuple[str, Any]]:
        return [(label, side.get(metric, ())) for label, side in zip(labels, history.sides, strict=False)]

    total = view.iterations
    norm = chart("Gradient norm", history.iterations, series("grad_norm"), total, logarithmic=True)
    return f'<div class="charts">{norm}{chart("Gaussians", history.iterations, series("count"), total)}</div>'


def downloads(view: RunView | None) -> str:
    """Links to the files that the run has left so far."""
    if view is None or not view.ended:
        return ""
    at = f"runs/{view.id}/files"
    links = [
        _link(at, path.name, f"{path.stem.partition('-')[2].upper()} scene", ".ply")
        for path in sorted((view.folder / "scenes").glob("*.ply"))
    ]
    sheet, video = view.folder / "captures" / "contact-sheet.png", view.folder / "captures" / "turntable.mp4"
    if sheet.is_file():
        links.append(_link(at, sheet.name, "Contact sheet", ".png"))
    if video.is_file():
        links.append(_link(at, video.name, "Turntable", ".mp4"))
    missing = [name for name, path in (("contact sheet", sheet), ("turntable", video)) if not path.is_file()]
    if links and missing and view.snapshot is not None:
        links.append(f'<span class="pending">being made: {", ".join(missing)}</span>')
    links.append(_link(at, "run.json", "Settings and events", ".json"))
    picture = (
        f'<a href="{at}/{sheet.name}" target="_blank" rel="noopener">'
        f'<img class="sheet" src="{at}/{sheet.name}" alt="Contact sheet: every side from eight directions" loading="lazy"></a>'
        if sheet.is_file()
        else ""
    )
    return f'<section class="downloads"><h2>Files of this run</h2><nav>{"".join(links)}</nav>{picture}</section>'


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


def _link(at: str, name: str, text: str, suffix: str) -> str:
    return f'<a href="{at}/{escape(name)}" download>{escape(text)}<small>{suffix}</small></a>'
