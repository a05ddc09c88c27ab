"""The manager of runs: a queue, ONE worker thread, and what everyone else may ask of a run.

The worker thread owns the models, the trainers and their scenes; nothing else touches them. Commands go down to it as
frozen values and are obeyed between two iterations. Views and snapshots come up, immutable.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, RunFolderError, SettingsError
from dreamerxl.guidance.hub import silent
from dreamerxl.runs.folder import RunFolder, explained
from dreamerxl.runs.limits import Limits
from dreamerxl.runs.prepare import Preparation
from dreamerxl.runs.run import CLOSING, ID_PATTERN, Run, RunView, new_run, read_run
from dreamerxl.runs.worker import Change, MakeTrainer, Pace, Pause, Resume, Stop, Watch, carry_out

KEPT_SNAPSHOTS = 4
KEPT_RUNS = 24  # ended ones that are held with their curves; others are read again when they are asked for
T = TypeVar("T")
CarryOut = Callable[[Run, MakeTrainer, Pace, Callable[[], bool]], None]


class Call:
    """Work for the worker thread that is no run, and the future of what comes of it."""

    def __init__(self, work: Callable[[MakeTrainer], Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()

    def carry_out(self, make_trainer: MakeTrainer) -> None:
        """Do it, unless it was taken back. Never raises: whoever asked is told."""
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.work(make_trainer))
            except BaseException as error:
                self.future.set_exception(error)


class RunManager:
    """Runs one run after another on its worker thread. Every method may be called from any thread."""

    def __init__(
        self,
        runs_dir: Path | str,
        make_trainer: MakeTrainer | None = None,
        limits: Limits | None = None,
        *,
        warm: Settings | None = None,
        pace: Pace | None = None,
        carry_out: CarryOut = carry_out,
    ):
        """``warm``: settings whose model the worker loads, and takes one step with, before the first run. ``carry_out``: what
        takes a run to its end, if not the worker thread itself."""
        self.runs_dir = Path(runs_dir)
        self.limits = limits or Limits()
        self._make_trainer = make_trainer or Preparation()
        self._pace = replace(pace or Pace(), most_seconds=self.limits.seconds)
        self._warm = warm
        self._carry_out = carry_out
        self._seen: dict[tuple[Path, int], RunView] = {}  # what was read from disk, by path and time of change
        self._changed = threading.Condition()  # guards the five below
        self._runs: dict[str, Run] = {}
        self._waiting: deque[Run | Call] = deque()
        self._current: Run | None = None
        self._finished: deque[Run] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="dreamerxl-worker", daemon=True)
        self._thread.start()

    def submit(
        self, settings: Settings, owner: str | None = None, folder: Path | None = None, start: RunView | None = None
    ) -> Run:
        """Queue a run in a folder of its own: ``runs_dir/ID``, or ``folder`` where one is named. It begins at iteration 0,
        or goes on from the newest checkpoint of ``start``, an ended run with as many sides.

        Raises SettingsError for an empty prompt, RunFolderError for a folder that cannot be written, DreamerError for
        a full queue and for what the limits do not let anyone ask for.
        """
        check_runnable(settings)
        self.limits.check(settings)
        with self._changed:
            self._check_room()
            if owner is not None:
                self.limits.check_own(sum(run.view.owner == owner and not run.view.ended for run in self._runs.values()))
            run = new_run(settings, self.runs_dir, owner, folder, start)
            self._runs[run.id] = run
            self._enqueue(run)
        return run

    def call(self, work: Callable[[MakeTrainer], T]) -> Future[T]:
        """Queue something else that needs the models; the worker thread does it in its turn. Raises DreamerError for a full
        queue. The future's ``cancel`` takes it back while it waits."""
        call = Call(work)
        with self._changed:
            self._check_room()
            self._enqueue(call)
        return call.future

    def pause(self, run_id: str) -> None:
        """Pause after the iteration in hand (a run that waits or loads pauses before its first)."""
        self._going(run_id).mailbox.put(Pause())

    def resume(self, run_id: str) -> None:
        """Go on after a pause."""
        self._going(run_id).mailbox.put(Resume())

    def stop(self, run_id: str, reason: str = "Stopped on request.") -> None:
        """End a run: at once where it waits or loads, else after the iteration in hand. One that has ended stays as it is."""
        run = self.get(run_id)
        with self._changed:
            if run in self._waiting:
                self._waiting.remove(run)
                self._renumber()
        if not run.record("stopped", reason, expect={"queued", "loading"}, status="stopped", reason=reason, queue_position=0):
            run.mailbox.put(Stop(reason))

    def change(self, run_id: str, side: int | None, changes: Mapping[str, Any]) -> None:
        """Change settings of one side, or of every side (None), from the next iteration on.

        The names are those of config.Variant. Raises SettingsError at once for what does not fit.
        """
        run = self._going(run_id)
        if not changes:
            return
        command = Change(side, dict(changes))
        run.view.settings.override(command.dotted())
        run.mailbox.put(command)

    def watch(self, run_id: str, share: float) -> None:
        """Give that share of a run's time (0.01 to 0.5) to showing it."""
        if not 0.01 <= share <= 0.5:
            raise SettingsError(f"The share of the time for the view is {share:g}; 0.01 to 0.5 is accepted.")
        self._going(run_id).mailbox.put(Watch(share))

    def delete(self, run_id: str) -> None:
        """Remove an ended run and everything in its folder. Raises DreamerError for one that is still going on."""
        run = self.get(run_id)
        if not run.view.ended:
            raise DreamerError(f"The run {run_id} is still going on; stop it first.")
        with self._changed:
            self._runs.pop(run_id, None)
            if run in self._finished:
                self._finished.remove(run)
        with explained(run.folder.path):
            (run.folder.path / "run.json").unlink(missing_ok=True)  # without it the folder is no run, however the rest goes
            shutil.rmtree(run.folder.path)

    def get(self, run_id: str) -> Run:
        """The run of that id, of this program or found in ``runs_dir``. Raises DreamerError where there is none."""
        if not isinstance(run_id, str) or not ID_PATTERN.fullmatch(run_id):
            raise DreamerError(f"{str(run_id)[:40]!r} is not the name of a run; names look like 20261122-142501-a3f9c1.")
        with self._changed:
            run = self._runs.get(run_id)
        if run is None:
            path = next((view.folder for view in self._on_disk() if view.id == run_id), None)
            if path is None:
                raise DreamerError(f"There is no run {run_id}.")
            run = read_run(path)
            with self._changed:
                run = self._runs.setdefault(run_id, run)
                self._let_go_of_old()
        return run

    @property
    def alive(self) -> bool:
        """Whether the thread that trains is there."""
        return self._thread.is_alive()

    def current(self) -> Run | None:
        """The run that loads, trains or is paused now."""
        with self._changed:
            return self._current

    def latest(self) -> Run | None:
        """The run that loads, trains or is paused now, else the one that did last."""
        with self._changed:
            return self._current or (self._finished[-1] if self._finished else None)

    def queue(self) -> tuple[Run, ...]:
        """The runs that wait, next first."""
        with self._changed:
            return tuple(entry for entry in self._waiting if isinstance(entry, Run))

    def runs(self) -> tuple[RunView, ...]:
        """Every run, newest first: those of this program and those in ``runs_dir`` that can be read (without curves)."""
        views = {view.id: view for view in self._on_disk()}
        with self._changed:
            views |= {run.id: run.view for run in self._runs.values()}
        return tuple(sorted(views.values(), key=lambda view: view.created, reverse=True))

    def cut_off(self) -> tuple[RunView, ...]:
        """Runs that an earlier program's end cut off and that nobody took up since, newest first; each can be taken up."""
        views = self.runs()
        taken = {view.goes_on_from for view in views if view.resumable or not view.cut_off}  # not by one that came to nothing
        return tuple(view for view in views if view.resumable and view.id not in taken)

    def take_up(self, run_id: str, owner: str | None = None, folder: Path | None = None) -> Run:
        """Queue a run that goes on from the newest checkpoint of one that was cut off (from the beginning, if that one was still
        waiting), to its end. Raises DreamerError."""
        view = self.get(run_id).view
        if not view.resumable:
            raise DreamerError(f"The run {run_id} was not cut off, or left no checkpoint; there is nothing to take up.")
        return self.submit(view.settings, owner, folder, view)

    def close(self, timeout_s: float = 60.0) -> bool:
        """Stop every run, keep the current one's scenes, and wait for the worker; False when it was still busy."""
        with self._changed:
            self._closing = True
            going = [run for run in self._runs.values() if not run.view.ended]
            calls = [entry for entry in self._waiting if isinstance(entry, Call)]
            self._changed.notify_all()
        for call in calls:
            call.future.cancel()
        for run in going:
            self.stop(run.id, CLOSING)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _going(self, run_id: str) -> Run:
        run = self.get(run_id)
        if run.view.ended:
            raise DreamerError(f"The run {run_id} has ended ({run.view.status}); it can no longer be changed.")
        return run

    def _on_disk(self) -> list[RunView]:
        views, seen = [], {}
        for path in self.runs_dir.glob("*/run.json"):
            try:
                key = (path, path.stat().st_mtime_ns)
                seen[key] = self._seen[key] if key in self._seen else read_run(path.parent, with_curves=False).view
                views.append(seen[key])
            except (DreamerError, OSError):
                continue  # not a run, or one of another version: it is not listed
        self._seen = seen
        return views

    def _let_go_of_old(self) -> None:
        """Forget the ended runs that were held longest, if they can be read again."""
        ended = [run for run in self._runs.values() if run.view.ended and run not in self._finished]
        for run in ended[: max(0, len(ended) - KEPT_RUNS)]:
            if run.folder.path.parent == self.runs_dir and (run.folder.path / "run.json").exists():
                del self._runs[run.id]

    def _renumber(self) -> None:
        for position, entry in enumerate(self._waiting, 1):
            if isinstance(entry, Run):
                entry.update(queue_position=position)

    def _check_room(self) -> None:
        if self._closing:
            raise DreamerError("The program is closing; no run can start.")
        if len(self._waiting) >= self.limits.waiting:
            raise DreamerError(f"The queue is full: {self.limits.waiting} runs are waiting. Try again when one has finished.")

    def _enqueue(self, entry: Run | Call) -> None:
        self._waiting.append(entry)
        self._renumber()
        self._changed.notify_all()

    def _work(self) -> None:
        """The worker thread: it alone owns the models, the trainers and their scenes. Ends when the manager closes."""
        for view in self._on_disk():
            if view.cut_off:
                with contextlib.suppress(RunFolderError):
                    RunFolder(view.folder).sweep()
        if self._warm is not None:
            self._warm_up(self._warm)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                entry = self._waiting.popleft()
                self._current = entry if isinstance(entry, Run) else None
                self._renumber()
            if isinstance(entry, Call):
                entry.carry_out(self._make_trainer)
                continue
            self._carry_out(entry, self._make_trainer, self._pace, lambda: bool(self._waiting))
            with self._changed:
                self._current = None
                self._finished.append(entry)
                if len(self._finished) > KEPT_SNAPSHOTS:
                    self._finished.popleft().forget_snapshot()
                self._let_go_of_old()
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        """Where only so many ended runs are kept, remove the others."""
        if self.limits.kept is not None:
            for view in [view for view in self.runs() if view.ended][self.limits.kept :]:
                with contextlib.suppress(DreamerError):
                    self.delete(view.id)

    def _warm_up(self, settings: Settings) -> None:
        """Load the models and compile the kernels ahead of the first run; a failure is told to the run that meets it."""
        with contextlib.suppress(Exception):
            self._make_trainer(settings, silent).trainer.step()


def check_runnable(settings: Settings) -> None:
    """Refuse settings that are in range but describe no run. Raises SettingsError."""
    if not settings.prompt.strip():
        raise SettingsError("prompt is empty; say in words what to make, for example 'a red mushroom'.")
    try:
        json.dumps(settings.to_dict(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise SettingsError(f"The settings hold {half!r}, half of a character, which no file can keep; leave it out.") from None
