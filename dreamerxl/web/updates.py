"""What changes on the page when a run does: Gradio's updates from views of runs, and keys that tell whether to draw anew."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import gradio as gr

from dreamerxl.runs.growth import moments
from dreamerxl.runs.run import RunView
from dreamerxl.web import cards
from dreamerxl.web.takeaway import has_scene

EVERY = -1  # stands for every side where one is asked for


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


def buttons(view: RunView | None, own: RunView | None, now: RunView | None) -> list[Any]:
    """Run, Pause, Stop, Run on, Again, and what a run of one's own can be told live. ``now`` is the run in progress."""
    going = now is not None and not now.ended
    active = own is not None and own.status in ("running", "paused")
    waiting = own is not None and own.status == "queued"
    ended = view is not None and view.ended and has_scene(view)
    sides = [(label, index) for index, label in enumerate(cards.side_labels(own))] if own is not None else []
    return [
        gr.update(value="Queue" if going else "Run", variant="secondary" if own is not None else "primary"),
        gr.update(value="Resume" if own is not None and own.status == "paused" else "Pause", interactive=active),
        gr.update(
            value="Withdraw" if waiting else "Stop", interactive=own is not None, variant="stop" if active else "secondary"
        ),
        gr.update(value=f"Run on: {more(view):,} more" if view is not None and ended else "Run on", interactive=ended),
        gr.update(interactive=view is not None),
        gr.update(visible=active),
        gr.update(choices=[("every side", EVERY), *sides]),
        gr.update(value=round(100 * own.view_share)) if own is not None else gr.skip(),
    ]


def more(view: RunView) -> int:
    """How many iterations a run goes on for: half as many as it was made for."""
    return max(1, view.iterations // 2)


def time_machine(view: RunView | None, looking: dict[str, Any]) -> list[Any]:
    """The time machine's row and its slider over the moments that the run has kept."""
    kept = moments(view.folder / "growth", len(view.settings.variants)) if view is not None else ()
    if len(kept) < 2:
        return [gr.update(visible=False), gr.skip()]
    at = looking.get("at")
    return [gr.update(visible=True), gr.update(minimum=kept[0], maximum=kept[-1], value=kept[-1] if at is None else at)]


def moment_on_show(view: RunView | None, looking: dict[str, Any]) -> int | None:
    """The moment whose pictures are to be seen: the one that was chosen, or the last where no snapshot is left."""
    if view is None:
        return None
    if looking.get("at") is None and (view.snapshot is not None or not view.ended):
        return None
    kept = moments(view.folder / "growth", len(view.settings.variants))
    return looking.get("at") or (kept[-1] if kept else None)


def picture_key(view: RunView | None, at: int | None) -> Hashable:
    if view is None:
        return "nothing"
    return view.id, view.labels, at, view.snapshot.iteration if view.snapshot is not None else None


def curve_key(view: RunView | None) -> Hashable:
    if view is None:
        return "nothing"
    points = view.history.iterations, view.marks.iterations
    return view.id, view.labels, len(view.events), *((len(axis), axis[-1:]) for axis in points)


def short(drawn: Any) -> str:
    """What is kept of a part to see whether it changed."""
    return str(hash(repr(drawn)))
