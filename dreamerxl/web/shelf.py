"""What can be taken away from a run, and the runs there were: functions from views of runs to HTML. All text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from dreamerxl.runs.run import RunView
from dreamerxl.web.cards import CHARTS, message, side_labels
from dreamerxl.web.curves import short
from dreamerxl.web.takeaway import export_name, has_scene, is_ready, place_of

CAPTURES = {  # name of the file: what it is
    "contact-sheet.png": "Contact sheet",
    "screenshot.png": "Screenshot",
    "turntable.mp4": "Turntable",
    "growth.mp4": "Growth",
    "side-by-side.mp4": "Growth, then a turn",
    "scene.html": "Page to turn by hand",
    "growth.viser": "Viser recording",
}
EXPORTS = {  # suffix: what opens it
    ".ply": "splat viewers",
    ".splat": "web viewers",
    ".spz": "compact",
    ".glb": "mesh, for Blender",
}


def takeaway(view: RunView | None, orders: Mapping[str, str]) -> str:
    """What can be taken away from a run: links to files that are there, buttons that have the others made.

    ``orders``: files that are being made ('') or could not be (why), by name.
    """
    if view is None or not has_scene(view):
        return ""
    captures = "".join(_item(view, name, text, Path(name).suffix, orders) for name, text in CAPTURES.items())
    record = f'<a href="{_address(view, "run.json")}" download>Settings and events<small>.json</small></a>'
    failed = "".join(message(f"{name}: {why}") for name, why in orders.items() if why)
    return (
        f'<section class="downloads" data-run="{view.id}"><h2>Take away</h2>{failed}'
        f'<nav aria-label="Captures">{captures}{record}</nav>{_export_table(view, orders)}{_sheet(view)}</section>'
    )


def gallery(views: Sequence[RunView], owner: str | None, chosen: Sequence[str] = (), cut_off: Sequence[RunView] = ()) -> str:
    """Past runs as cards with a thumbnail, to open, compare and (one's own) delete; before them, those to take up again."""
    waiting = "".join(_interrupted(view) for view in cut_off)
    if not views and not waiting:
        return '<p class="none">No run here yet.</p>'
    cards = "".join(_card(view, view.belongs_to(owner), view.id in chosen) for view in views)
    return f'{waiting}<div class="runs">{cards}</div>'


def comparison(views: Sequence[RunView], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Some runs next to each other: pictures, results, and the settings in which they differ (name, a value each)."""
    if len(views) < 2:
        return ""
    heads = "".join(f'<th scope="col">{_thumbnail(view)}{escape(view.settings.prompt)}</th>' for view in views)
    results = [("iterations done", [f"{view.iteration:,}" for view in views])]
    for metric, of_moments, title, _, _ in CHARTS:
        found = [_last_values(view, metric, of_moments) for view in views]
        if any(found):
            results.append((f"{title.lower()}, at the end", [value or "–" for value in found]))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
        for name, values in [*results, *rows]
    )
    return f'<div class="wide"><table class="compare"><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _export_table(view: RunView, orders: Mapping[str, str]) -> str:
    heads = "".join(f'<th scope="col">{suffix}<small>{escape(text)}</small></th>' for suffix, text in EXPORTS.items())
    rows = ""
    for index, label in [*enumerate(side_labels(view)), (None, "Every side")]:
        cells = "".join(f"<td>{_item(view, export_name(view, index, suffix), '', suffix, orders)}</td>" for suffix in EXPORTS)
        rows += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    return f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _item(view: RunView, name: str, text: str, suffix: str, orders: Mapping[str, str]) -> str:
    """A file as a link where it is there, a word while it is being made, else (or while the run goes on) a button."""
    shown = f"{escape(text)}<small>{suffix}</small>" if text else "save"
    if orders.get(name) == "":
        return f'<span class="pending">{escape(text)} <small>is being made</small></span>'
    there = is_ready(view, name)
    link = f'<a href="{_address(view, name)}" download aria-label="Save {escape(text or name)}">{shown}</a>' if there else ""
    if there and view.ended:
        return link
    label, word = ("Make anew: ", "↻") if there else ("Make: ", shown if text else "make")
    return f'{link}<button type="button" data-make="{escape(name)}" aria-label="{label}{escape(text or name)}">{word}</button>'


def _sheet(view: RunView) -> str:
    if not is_ready(view, "contact-sheet.png"):
        return ""
    address = _address(view, "contact-sheet.png")
    alt = "Contact sheet: every side from eight directions"
    return (
        f'<a href="{address}" target="_blank" rel="noopener"><img class="sheet" src="{address}" alt="{alt}" loading="lazy"></a>'
    )


def _card(view: RunView, own: bool, chosen: bool) -> str:
    name = escape(view.settings.prompt)
    made = datetime.fromtimestamp(view.created, timezone.utc).strftime("%d %b %H:%M")
    about = f"{' | '.join(side_labels(view))} · {view.iteration:,} iterations · seed {view.settings.seed} · {made}"
    checked = " checked" if chosen else ""
    compare = f'<input type="checkbox" data-do="compare:{view.id}"{checked} aria-label="Compare {name}">'
    delete = f'<button type="button" data-do="delete:{view.id}" aria-label="Delete {name}">delete</button>' if own else ""
    return (
        f'<article><button type="button" class="open" data-do="open:{view.id}" aria-label="Open {name}">'
        f"{_thumbnail(view)}<b>{name}</b><span>{escape(about)}</span></button>"
        f"<p><label>{compare}compare</label>{delete}</p></article>"
    )


def _interrupted(view: RunView) -> str:
    name = escape(view.settings.prompt)
    return (
        f'<p class="interrupted">“{name}” was cut off at iteration {view.iteration:,} of {view.iterations:,} '
        "when the program ended. "
        f'<button type="button" data-do="take-up:{view.id}" aria-label="Go on with {name}">Go on</button></p>'
    )


def _thumbnail(view: RunView) -> str:
    if place_of(view.folder, "thumbnail.png") is None:
        return '<i class="blank"></i>'
    return f'<img src="{_address(view, "thumbnail.png")}" alt="" loading="lazy">'


def _last_values(view: RunView, metric: str, of_moments: bool) -> str:
    sides = (view.marks if of_moments else view.history).sides
    return " | ".join(short(side[metric][-1]) for side in sides if side.get(metric))


def _address(view: RunView, name: str) -> str:
    return f"runs/{view.id}/files/{escape(name)}"
