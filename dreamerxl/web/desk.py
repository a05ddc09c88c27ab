"""What the page and the view ask of the runs: which run is on show, who may stop it, and its captures once it has ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.runs.capture import capture_run
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import RunView

CAPTURES = ("contact-sheet.png", "turntable.mp4")


class Desk:
    """One for the whole program; every method may be called from any thread. Runs belong to whoever holds their owner token."""

    def __init__(self, manager: RunManager):
        self.manager = manager
        self._last: str | None = None  # the run that was on show last
        self._captured: set[str] = set()
        self._lock = threading.Lock()  # guards the two above
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="dreamerxl-captures")

    def on_show(self) -> RunView | None:
        """The run in progress, else the one that was in progress last. Once ended, its captures are made."""
        run = self.manager.current()
        with self._lock:
            if run is not None:
                self._last = run.id
            last = self._last
        if run is None and last is not None:
            run = self.manager.get(last)
        if run is None:
            return None
        view = run.view
        if view.ended and view.snapshot is not None:
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
        """Queue a run for a visitor. Raises DreamerError with a sentence."""
        run = self.manager.submit(settings, owner)
        with self._lock:
            if self._last is None:
                self._last = run.id
        return run.view

    def own(self, owner: str | None) -> RunView | None:
        """The visitor's run that is in progress, else the first that waits; None where there is none."""
        if not owner:
            return None
        current = self.manager.current()
        runs = [*([current] if current is not None else []), *self.manager.queue()]
        return next((run.view for run in runs if run.view.owner == owner and not run.view.ended), None)

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

    def change(self, owner: str | None, changes: Mapping[str, Any]) -> RunView:
        """Give changed settings to every side of the visitor's run. Raises DreamerError."""
        view = self._mine(owner)
        self.manager.change(view.id, None, changes)
        return view

    def health(self) -> dict[str, Any]:
        """The run in progress and how many wait, for /health."""
        run = self.manager.current()
        current = None if run is None else {"id": run.id, "status": run.view.status, "iteration": run.view.iteration}
        return {"run": current, "waiting": len(self.manager.queue())}

    def close(self) -> None:
        """Let go of the thread that makes captures."""
        self._maker.shutdown(wait=False, cancel_futures=True)

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
        if not all((view.folder / "captures" / name).is_file() for name in CAPTURES):
            self._maker.submit(_capture, view)


def _capture(view: RunView) -> None:
    try:
        capture_run(view)
    except Exception:
        logging.getLogger(__name__).exception("The captures of run %s could not be made.", view.id)
