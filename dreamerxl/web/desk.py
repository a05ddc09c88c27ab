"""What the page and the view ask of the runs: which is on show, who may touch it, what is made of it, what there was before."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.files import replacing
from dreamerxl.runs.capture import ALWAYS, run_sides
from dreamerxl.runs.drawing import camera, extent, pictures
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import Run, RunView
from dreamerxl.runs.trim import trim
from dreamerxl.web import takeaway
from dreamerxl.web.lab_desk import LabDesk
from dreamerxl.web.past import Past

MOST_ORDERS = 12  # files that wait to be made, of all visitors
MOST_FAILURES = 60  # of files that could not be made are told, the latest
THUMBNAIL = "thumbnail.png"
THUMBNAIL_SIZE = 160  # pixels of a side
MOST_LISTED = 60  # runs of the gallery
TWICE_S = 2.0  # in which a second press of a button, with the same settings, is the echo of the first


class Desk:
    """One for the whole program; every method may be called from any thread. Runs belong to whoever holds their owner token."""

    def __init__(self, manager: RunManager):
        self.manager = manager
        self.past = Past()
        self.lab = LabDesk(manager)
        finished = (
            (view.id for view in manager.runs() if view.ended and takeaway.has_scene(view)) if manager.limits.replay else ()
        )
        self._last: str | None = next(iter(finished), None)  # the run that was on show last; a replay opens with the newest
        self._captured: set[str] = set()
        self._orders: dict[tuple[str, str], str] = {}  # (run, file) -> '' while it is being made, else why it failed
        self._lock = threading.Lock()  # guards the three above
        self._pressed: dict[str, tuple[float, object, Run]] = {}  # by visitor: when, what was asked for, what came of it
        self._pressing = threading.Lock()  # guards the one above, and lets runs be submitted one at a time
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="dreamerxl-captures")

    def on_show(self) -> RunView | None:
        """The run in progress, else the one that was in progress last. Once ended, its captures are made."""
        run = self.manager.latest()
        with self._lock:
            if run is not None:
                self._last = run.id
            last = self._last
        view = run.view if run is not None else self.find(last)
        if view is not None and view.ended and view.snapshot is not None:
            self._capture_once(view)
        return view

    def find(self, run_id: str | None) -> RunView | None:
        """A run by its id, also one of an earlier program; None where there is none."""
        try:
            return self.manager.get(run_id).view if run_id else None
        except DreamerError:
            return None

    def folder(self, run_id: str) -> Path | None:
        """The folder of a run, or None."""
        view = self.find(run_id)
        return None if view is None else view.folder

    def submit(self, settings: Settings, owner: str) -> RunView:
        """Queue a run for a visitor; the same one where they pressed twice. Raises DreamerError with a sentence."""
        return self._once(owner, settings, lambda: self.manager.submit(settings, owner))

    def again(self, run_id: str, owner: str) -> RunView:
        """Queue a run for a visitor with the settings and the seed that another was submitted with. Raises DreamerError."""
        return self.submit(self.manager.get(run_id).submitted, owner)

    def run_on(self, run_id: str, owner: str, more: int) -> RunView:
        """Queue a run that goes on from where an ended one stood, for ``more`` iterations. Raises DreamerError."""
        view = self.manager.get(run_id).view
        if not view.ended:
            raise DreamerError("This run is still going on; it can run on once it has ended.")
        settings = dataclasses.replace(view.settings, iterations=view.iteration + more)
        return self._once(owner, (run_id, settings), lambda: self.manager.submit(settings, owner, start=view))

    def cut_off(self, owner: str | None) -> list[RunView]:
        """Runs that the end of an earlier program cut off, the visitor's own and those of nobody, newest first."""
        if self.manager.limits.replay:
            return []
        return [view for view in self.manager.cut_off() if not view.owner_key or view.belongs_to(owner)]

    def take_up(self, run_id: str, owner: str) -> RunView:
        """Queue a run that goes on from where one that was cut off stood. Raises DreamerError."""
        view = self.manager.get(run_id).view
        if view.owner_key and not view.belongs_to(owner):
            raise DreamerError("This run was made by another visitor; only they can take it up.")
        return self._once(owner, run_id, lambda: self.manager.take_up(run_id, owner))

    def own(self, owner: str | None) -> RunView | None:
        """The visitor's run that is in progress, else the first that waits; None where there is none."""
        if not owner:
            return None
        current = self.manager.current()
        runs = [*([current] if current is not None else []), *self.manager.queue()]
        return next((run.view for run in runs if run.view.owner == owner and not run.view.ended), None)

    def wait_s(self, view: RunView) -> float | None:
        """Seconds until a queued run is expected to begin; None while nothing is known of the pace."""
        current = self.manager.current()
        if current is None or current.view.its_per_s <= 0:
            return None
        ahead = [run.view for run in self.manager.queue() if 0 < run.view.queue_position < view.queue_position]
        return current.view.eta_s + sum(run.iterations for run in ahead) / current.view.its_per_s

    def toggle_pause(self, owner: str | None) -> RunView:
        """Pause the visitor's run, or resume it where it is paused. Raises DreamerError."""
        view = self._mine(owner)
        (self.manager.resume if view.status == "paused" else self.manager.pause)(view.id)
        return view

    def stop(self, owner: str | None) -> RunView:
        """Stop the visitor's run, or take it out of the queue. Raises DreamerError."""
        view = self._mine(owner)
        self.manager.stop(view.id)
        return view

    def change(self, owner: str | None, changes: Mapping[str, Any], side: int | None = None) -> RunView:
        """Give changed settings to one side (None: every one) of the visitor's run. Raises DreamerError."""
        view = self._mine(owner)
        self.manager.change(view.id, side, changes)
        return view

    def watch(self, owner: str | None, share: float) -> RunView:
        """Give the view a share of the time of the visitor's run. Raises DreamerError."""
        view = self._mine(owner)
        self.manager.watch(view.id, share)
        return view

    def delete(self, run_id: str, owner: str | None) -> None:
        """Delete one of the visitor's own runs that has ended. Raises DreamerError."""
        view = self.manager.get(run_id).view
        if not view.belongs_to(owner):
            raise DreamerError("This run was made by another visitor; only they can delete it.")
        self.manager.delete(run_id)
        with self._lock:
            if self._last == run_id:
                self._last = None

    def listed(self, words: str = "") -> list[RunView]:
        """Ended runs with a scene, newest first, whose prompt, methods, model or id hold every one of some words. Their
        thumbnails are made where they are missing."""
        wanted = words.lower().split()[:20]
        found = []
        for view in self.manager.runs():
            if not view.ended or not takeaway.has_scene(view):
                continue
            text = " ".join((view.settings.prompt, *view.labels, view.model, view.id, view.status)).lower()
            if all(word in text for word in wanted):
                found.append(view)
        found = found[:MOST_LISTED]
        missing = [
            view for view in found if takeaway.place_of(view.folder, THUMBNAIL) is None and THUMBNAIL not in self.orders(view.id)
        ]
        for view in missing[:MOST_ORDERS]:
            self._order(view, THUMBNAIL, _thumbnail)
        return found

    def order(self, run_id: str, name: str, **options: Any) -> None:
        """Have a file of a run made; ``orders`` tells how it stands. Raises DreamerError where that cannot be asked."""
        view = self.manager.get(run_id).view
        if not takeaway.may_leave(name):
            raise DreamerError(f"{name[:40]!r} is nothing that is made of a run.")
        with self._lock:
            waiting = sum(not outcome for outcome in self._orders.values())
        if waiting >= MOST_ORDERS:
            raise DreamerError(f"{waiting} files are being made already; ask again when some are done.")
        self._order(view, name, lambda subject: takeaway.make(subject, name, **options))

    def orders(self, run_id: str) -> dict[str, str]:
        """Files of a run that are being made ('') or could not be (why), by name."""
        with self._lock:
            return {name: outcome for (of, name), outcome in self._orders.items() if of == run_id}

    def health(self) -> dict[str, Any]:
        """The run in progress and how many wait, for /health."""
        run = self.manager.current()
        current = None if run is None else {"id": run.id, "status": run.view.status, "iteration": run.view.iteration}
        return {"run": current, "waiting": len(self.manager.queue()), "training": self.manager.alive}

    def close(self) -> None:
        """Let go of the thread that makes captures and of the views of the past."""
        self._maker.shutdown(wait=False, cancel_futures=True)
        self.past.close()

    def _once(self, owner: str, asked: object, queue: Callable[[], Run]) -> RunView:
        """What is queued for a visitor; what they asked for a moment ago is not queued again while it goes on."""
        with self._pressing:
            now = time.monotonic()
            self._pressed = {visitor: press for visitor, press in self._pressed.items() if now - press[0] < TWICE_S}
            _, before, made = self._pressed.get(owner, (now, None, None))
            if made is None or before != asked or made.view.ended:
                made = queue()
                self._pressed[owner] = now, asked, made
            return self._shown(made.view)

    def _shown(self, view: RunView) -> RunView:
        with self._lock:
            if self._last is None:
                self._last = view.id
        return view

    def _mine(self, owner: str | None) -> RunView:
        view = self.own(owner)
        if view is None:
            current = self.manager.current()
            if current is not None and not current.view.ended:
                raise DreamerError("This run was started by another visitor; only they can pause, change or stop it.")
            raise DreamerError("There is no run in progress.")
        return view

    def _capture_once(self, view: RunView) -> None:
        with self._lock:
            if view.id in self._captured:
                return
            self._captured.add(view.id)
        for name in ALWAYS:
            if not takeaway.is_ready(view, name):
                self._order(view, name, lambda subject, name=name: takeaway.make(subject, name))
        self._order(view, THUMBNAIL, _thumbnail)

    def _order(self, view: RunView, name: str, make: Any) -> None:
        """Make a file on the makers' thread, unless it is being made already. A failure is kept as a sentence."""
        key = (view.id, name)
        with self._lock:
            if self._orders.get(key) == "":
                return
            self._orders[key] = ""

        def work() -> None:
            outcome = None
            try:
                if self.find(view.id) is not None:
                    make(view)
                if self.find(view.id) is None:  # deleted meanwhile: what was just written is to go, too
                    shutil.rmtree(view.folder, ignore_errors=True)
            except DreamerError as error:
                outcome = str(error)
            except Exception:
                outcome = "It could not be made; the program's log has the details."
                logging.getLogger(__name__).exception("%s of run %s could not be made.", name, view.id)
            trim()
            with self._lock:
                del self._orders[key]
                if outcome is not None:
                    self._orders[key] = outcome  # the last of them now
                    for old in [key for key, failure in self._orders.items() if failure][:-MOST_FAILURES]:
                        del self._orders[old]

        self._maker.submit(work)


def _thumbnail(view: RunView) -> None:
    """captures/thumbnail.png: the sides from the front, next to each other."""
    scenes = [side.splats for side in run_sides(view)]
    seen = camera(extent(scenes), 30.0, 15.0, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    image = Image.new("RGB", (THUMBNAIL_SIZE * len(scenes), THUMBNAIL_SIZE))
    for index, splats in enumerate(scenes):
        image.paste(Image.fromarray(next(pictures(splats, seen))), (index * THUMBNAIL_SIZE, 0))
    with replacing(view.folder / "captures" / THUMBNAIL) as temporary:
        image.save(temporary)


def differing(views: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """The settings in which some runs differ, by dotted name, with each run's value in words."""
    flat = [_flat(view.settings.to_dict()) for view in views]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows = []
    for name in names:
        values = [settings.get(name, "–") for settings in flat]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    else:
        text = "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        return {path.rstrip("."): text}
    flat: dict[str, str] = {}
    for name, entry in parts:
        flat |= _flat(entry, f"{path}{name}.")
    return flat
