"""One run as others see it: an immutable view, swapped whole by the thread that trains."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import queue
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dreamerxl.config import Settings
from dreamerxl.errors import RunFolderError
from dreamerxl.hardware import machine, versions
from dreamerxl.logs import tell, utc
from dreamerxl.runs.curves import Curves, History
from dreamerxl.runs.folder import RunFolder
from dreamerxl.runs.marks import read_marks
from dreamerxl.runs.snapshot import Snapshot, labels

Status = Literal["queued", "loading", "running", "paused", "stopped", "done", "failed"]
ENDED = frozenset({"stopped", "done", "failed"})

FORMAT = 1
CLOSING = "Stopped because the program was closed."
LEVELS = {"failed": logging.ERROR, "recovered": logging.WARNING}  # of events in the logs; the others are news
VIEW_SHARE = 0.1  # of the time of a run that goes into showing it, unless its owner says otherwise
ID_PATTERN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class Event:
    """Something that happened to a run. ``iteration`` counts the iterations done before it."""

    iteration: int
    kind: Literal["queued", "loading", "started", "paused", "resumed", "changed", "recovered", "stopped", "done", "failed"]
    text: str
    time: str  # UTC, ISO 8601
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunView:
    """A run at one moment. Immutable: hold it as long as you like; ``Run.view`` gives the newest."""

    id: str
    folder: Path
    settings: Settings  # with the live changes made so far
    owner: str | None
    status: Status
    created: float  # seconds since the epoch
    reason: str = ""  # why it failed or was stopped, a sentence
    notices: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    model: str = ""  # what settings.model became
    stage: str = ""  # what the loading is at, a sentence; empty once it trains
    device: str = ""
    iteration: int = 0  # iterations done
    its_per_s: float = 0.0
    eta_s: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds of loading, iterations, snapshots, pauses
    queue_position: int = 0  # 1 is next, 0 is not waiting
    history: History = History()
    marks: History = History()  # of the scenes at the moments of the growth (runs.marks)
    view_share: float = VIEW_SHARE  # of the time goes into snapshots
    cut_off: bool = False  # its program was closed, or ended, before it did
    goes_on_from: str = ""  # the id of the run that it took up
    owner_key: str = ""  # tells the owner across restarts without giving the token away
    snapshot: Snapshot | None = None

    @property
    def iterations(self) -> int:
        return self.settings.iterations

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def begun(self) -> bool:
        """Whether it trained at all, or had another to go on from."""
        return bool(self.goes_on_from) or (self.folder / "metrics.jsonl").exists()

    @property
    def resumable(self) -> bool:
        """Whether it was cut off and can go on: from a checkpoint, or from the beginning if it was still waiting for that."""
        return self.cut_off and (not self.begun or any((self.folder / "checkpoints").glob("*.safetensors")))

    def belongs_to(self, owner: str | None) -> bool:
        """Whether a visitor's token is that of the run's owner."""
        return bool(owner) and (owner == self.owner or (bool(self.owner_key) and key_of(owner) == self.owner_key))

    @property
    def labels(self) -> tuple[str, ...]:
        return labels(self.settings.variants)


class Run:
    """A run: read ``view`` from any thread without a lock. Commands go down through its mailbox, obeyed between iterations."""

    def __init__(self, view: RunView, folder: RunFolder, submitted: Settings | None = None, start: Path | None = None):
        self.folder = folder
        self.start = start  # the folder of the run that this one goes on from
        self.submitted = submitted or view.settings
        self.machine: Mapping[str, Any] | None = None  # what it trained on, where that was another machine
        self.mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._view = view
        self._lock = threading.Lock()  # guards the change of _view and the writing of run.json
        self._ended = threading.Event()
        if view.ended:
            self._ended.set()

    @property
    def id(self) -> str:
        return self._view.id

    @property
    def view(self) -> RunView:
        return self._view

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the run has ended and its files are written; False when the time ran out first."""
        return self._ended.wait(timeout_s)

    def update(self, *, expect: Collection[Status] | None = None, **changes: Any) -> bool:
        """Publish a new view; False, and no change, where the run has ended or its status is not one expected."""
        with self._lock:
            if self._view.ended or (expect is not None and self._view.status not in expect):
                return False
            self._view = dataclasses.replace(self._view, **changes)
            return True

    def record(
        self,
        kind: Any,
        text: str,
        details: Mapping[str, Any] | None = None,
        *,
        expect: Collection[Status] | None = None,
        **changes: Any,
    ) -> bool:
        """Publish a new view together with an event, and write run.json if the disk lets it; False as in ``update``."""
        with self._lock:
            if self._view.ended or (expect is not None and self._view.status not in expect):
                return False
            event = Event(self._view.iteration, kind, text, utc(time.time()), dict(details or {}))
            self._view = dataclasses.replace(self._view, events=(*self._view.events, event), **changes)
            try:
                self.folder.write_record(self.describe())
            except RunFolderError as error:
                self.folder.log_error(error)
            finally:
                self._log(event)
                if self._view.ended:
                    self.folder.release()
                    self._ended.set()
            return True

    def _log(self, event: Event) -> None:
        """Add an event to the run's log and, without its text, which may quote the prompt, to the program's."""
        level = LEVELS.get(event.kind, logging.INFO)
        fields = {"run": self.id, "iteration": event.iteration}
        self.folder.log(logging.getLevelName(level).lower(), event.kind, **fields, text=event.text, details=event.details)
        tell(f"run {event.kind}", level, **fields)

    def write(self) -> None:
        """Write run.json as it is now. Raises RunFolderError; ``record`` only logs what the disk refuses."""
        with self._lock:
            self.folder.write_record(self.describe())

    def next_command(self, timeout_s: float) -> Any | None:
        """The oldest command that has not been obeyed, or None when none came in time. For the worker thread."""
        with contextlib.suppress(queue.Empty):
            return self.mailbox.get(timeout=timeout_s)
        return None

    def forget_snapshot(self) -> None:
        """Let go of an ended run's last snapshot; its scenes are in its folder."""
        with self._lock:
            self._view = dataclasses.replace(self._view, snapshot=None)

    def describe(self) -> dict[str, Any]:
        """Plain values of run.json, enough to repeat the run: settings as submitted, every live change, versions."""
        view = self._view
        return {
            "format": FORMAT,
            "id": view.id,
            "status": view.status,
            "reason": view.reason,
            "created": utc(view.created),
            "prompt": self.submitted.prompt,
            "seed": self.submitted.seed,
            "model": view.model,
            "device": view.device,
            "iteration": view.iteration,
            "iterations": view.iterations,
            "its_per_s": round(view.its_per_s, 4),
            "timings_s": {name: round(seconds, 3) for name, seconds in view.timings.items()},
            "notices": list(view.notices),
            "events": [dataclasses.asdict(event) for event in view.events],
            "settings": self.submitted.to_dict(),
            "final_settings": view.settings.to_dict(),
            "versions": versions(),
            "machine": dict(self.machine) if self.machine is not None else machine(view.device),
            "owner_key": view.owner_key,
            "goes_on_from": view.goes_on_from,
        }


def new_run(
    settings: Settings, runs_dir: Path, owner: str | None = None, path: Path | None = None, start: RunView | None = None
) -> Run:
    """A queued run with a fresh id and folder, from iteration 0 or from where ``start`` stood. Raises RunFolderError where
    the folder cannot be made."""
    created = time.time()
    run_id = new_id(created)
    folder = RunFolder.create(path or runs_dir / run_id)
    view = RunView(
        run_id,
        folder.path,
        settings,
        owner,
        "queued",
        created,
        owner_key=key_of(owner) if owner else "",
        goes_on_from="" if start is None else start.id,
    )
    run = Run(view, folder, start=start.folder if start is not None and start.begun else None)
    folder.hold()
    run.write()
    run.record("queued", "Waiting for its turn." if start is None else f"Waiting for its turn; goes on from {start.id}.")
    return run


def new_id(created: float) -> str:
    """A short name that sorts by time: 20261122-142501-a3f9c1."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(created))}-{secrets.token_hex(3)}"


def read_run(path: Path, with_curves: bool = True) -> Run:
    """A run found on disk. Raises DreamerError where the folder does not hold one that can be read.

    A run that waited or was going on when its program ended was cut off, and comes back as failed where nothing could be
    written any more. One that another program trains is refused.
    """
    folder = RunFolder(path)
    if folder.is_held():
        raise RunFolderError(f"The run in {path} is being trained by another program.")
    record = folder.read_record()
    try:
        submitted = Settings.from_dict(record["settings"])
        status, reason = record["status"], record["reason"]
        cut_off = status not in ENDED or reason == CLOSING
        if status not in ENDED:
            status, reason = "failed", "The program ended before the run did."
        view = RunView(
            id=record["id"],
            folder=path,
            settings=Settings.from_dict(record["final_settings"]),
            owner=None,
            status=status,
            created=datetime.fromisoformat(record["created"]).timestamp(),
            reason=reason,
            notices=tuple(record["notices"]),
            events=tuple(Event(**event) for event in record["events"]),
            model=record["model"],
            device=record["device"],
            iteration=max(record["iteration"], last_checkpoint(folder) if cut_off else 0),
            its_per_s=record["its_per_s"],
            timings=record["timings_s"],
            cut_off=cut_off,
            goes_on_from=str(record.get("goes_on_from", "")),
            owner_key=str(record.get("owner_key", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path / 'run.json'} is not the record of a run ({type(error).__name__}: {error}).") from None
    if not ID_PATTERN.fullmatch(view.id):
        raise RunFolderError(f"{path / 'run.json'} names no run; names look like 20261122-142501-a3f9c1.")
    curves = Curves()
    for line in folder.read_metrics() if with_curves else ():
        curves.add(line["iteration"], line["sides"])
    marks = Curves()
    for line in read_marks(folder.growth) if with_curves else ():
        marks.add(line["iteration"], line["sides"])
    return Run(dataclasses.replace(view, history=curves.history(), marks=marks.history()), folder, submitted)


def last_checkpoint(folder: RunFolder) -> int:
    """The iteration of the newest checkpoint, by its name; 0 without one."""
    return max((int(path.stem) for path in folder.checkpoints.glob("*.safetensors") if path.stem.isdigit()), default=0)


def key_of(owner: str) -> str:
    """What is kept of an owner's token."""
    return hashlib.sha256(f"dreamerxl {owner}".encode()).hexdigest()[:32]
