"""Runs of the queue that train on another machine of a Ray cluster and are shown as if they trained here.

    lane     carries out one run after another for a run manager's worker thread, in place of runs.worker.carry_out
    station  the actor on the other machine. It holds the model, trains the run in a folder of its own and is asked for news
    news     the run's view, its newest snapshot and what has changed in its folder, once each

Commands go down as they come and are obeyed between two iterations there. The folder here follows the one there, so a machine
that dies costs one checkpoint interval and the time of one piece of news: another station goes on from the folder here.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from dreamerxl import __version__, logs
from dreamerxl.cluster.connect import ClusterError, connect, machines
from dreamerxl.cluster.mirror import Change, Mirror, apply
from dreamerxl.cluster.needs import Needs, check, needs_of
from dreamerxl.cluster.scratch import Scratch
from dreamerxl.config import Settings
from dreamerxl.hardware import machine
from dreamerxl.runs.folder import RunFolder, explained
from dreamerxl.runs.prepare import Preparation
from dreamerxl.runs.run import Run, RunView
from dreamerxl.runs.snapshot import Snapshot, sealed
from dreamerxl.runs.worker import MakeTrainer, Pace, Pause, Stop, Withdrawn, carry_out, sentence
from dreamerxl.training import checkpoint

NEWS_S = 0.15  # between two questions for news, unless a command comes in between
MOST_LOSSES = 3  # machines that a run may lose
MOST_THREADS = 8  # of a run on processors alone: more do little at these sizes
OWN = ("run.json", "log.jsonl")  # each machine writes its own
SHOWN = (
    *("settings", "notices", "model", "device", "stage", "iteration", "its_per_s", "eta_s"),
    *("timings", "history", "marks", "view_share"),
)
WAITING = "Waiting for a machine of the cluster."


@dataclass(frozen=True)
class Order:
    """A run as a station is asked for it."""

    view: RunView  # as it is where it was asked for
    submitted: Settings
    pace: Pace
    before: tuple[Change, ...]  # the folder that it goes on from; empty where it begins
    commands: tuple[Any, ...] = ()  # that came before it began


@dataclass(frozen=True)
class News:
    """What has happened to a run since the last news."""

    view: RunView  # without its snapshot
    snapshot: Snapshot | None  # where there is a newer one
    changes: tuple[Change, ...]
    machine: dict[str, Any] = field(default_factory=dict)


class Station:
    """The actor: one run at a time on a thread of its own, and whatever is asked about it beside that."""

    def __init__(self, threads: int, make_trainer: Callable[[], MakeTrainer] = Preparation) -> None:
        torch.set_num_threads(threads)
        self.make_trainer = make_trainer()
        self.scratch = Scratch()  # a station ends by being killed, and the next one clears its folder
        self.root = self.scratch.path
        self.others_wait = False
        self.run: Run | None = None
        self.thread: threading.Thread | None = None
        self.mirror = Mirror(self.root)
        self.told: Snapshot | None = None  # the snapshot of the last news

    def ready(self) -> str:
        """The version of the code here."""
        return __version__

    def begin(self, order: Order) -> None:
        """Start a run, once the one before has ended."""
        self.close()
        before, folder = self.root / "before", RunFolder.create(self.root / "run")
        apply(before, order.before)
        view = replace(order.view, folder=folder.path, status="queued", owner=None, snapshot=None)
        run = Run(view, folder, order.submitted, before if order.before else None)
        for command in order.commands:
            run.mailbox.put(command)
        self.run, self.mirror, self.told = run, Mirror(folder.path, OWN), None
        arguments = (run, self.make_trainer, order.pace, lambda: self.others_wait)
        self.thread = threading.Thread(target=carry_out, args=arguments, name="dreamerxl-station", daemon=True)
        self.thread.start()

    def news(self, others_wait: bool) -> News:
        """What is new. The view is older than the files: what it says has ended is written."""
        self.others_wait = others_wait
        assert self.run is not None, "a station is asked for news of what it has begun"
        view = self.run.view
        snapshot = view.snapshot if view.snapshot is not self.told else None
        self.told = view.snapshot
        ran_on = machine(view.device) if view.device else {}
        return News(replace(view, snapshot=None), packed(snapshot), tuple(self.mirror.changes()), ran_on)

    def obey(self, command: Any) -> None:
        """Hand a command to the run; a Stop also ends its loading."""
        run = self.run
        if run is not None:
            reason = command.reason if isinstance(command, Stop) else ""
            if not reason or not run.record("stopped", reason, expect={"queued", "loading"}, status="stopped", reason=reason):
                run.mailbox.put(command)

    def close(self) -> None:
        """Stop the run, if it goes on, and clear the disk."""
        if self.thread is not None:
            self.obey(Stop("Its station was asked for something else."))
            self.thread.join()
        for path in self.root.iterdir():
            shutil.rmtree(path, ignore_errors=True)


class Lane:
    """Carries out runs on a cluster, one after another (see runs.worker.carry_out); keeps its station and the model there."""

    def __init__(
        self,
        address: str | None = None,
        threads: int | None = None,
        gpus: float | None = None,
        make_trainer: Callable[[], MakeTrainer] = Preparation,
    ) -> None:
        """Joins the cluster. ``threads``, ``gpus``: of a run; ``make_trainer`` makes what prepares trainers there. Raises
        ClusterError."""
        self.ray = connect(address)
        self.gpus, self.make_trainer = gpus, make_trainer
        widest = max((int(found.get("CPU", 0)) for found in machines(self.ray)), default=0)
        self.threads = threads or max(1, min(MOST_THREADS, widest))
        self.station: Any = None
        self.needs: Needs | None = None  # of the run that the station was made for

    def __call__(self, run: Run, make_trainer: MakeTrainer, pace: Pace, others_wait: Callable[[], bool]) -> None:
        """Take a queued run to its end, elsewhere. Never raises: a failure becomes the run's status with its reason."""
        if not run.record("loading", WAITING, expect={"queued"}, status="loading", stage=WAITING, queue_position=0):
            return
        try:
            self._carry_out(run, pace, others_wait)
        except Withdrawn:
            self._let_go()
        except BaseException as error:  # the thread must outlive whatever a library raises
            self._let_go()
            run.folder.log_error(error)
            where = logs.places(error.__traceback__)
            logs.tell("an error ended a run", logging.ERROR, run=run.id, error=type(error).__name__, where=where)
            reason = sentence(error, run.view.settings)
            run.record("failed", reason, status="failed", reason=reason, eta_s=0.0)

    def close(self) -> None:
        """Let go of the station."""
        if self.station is not None:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.ray.get(self.station.close.remote(), timeout=10)
        self._let_go()

    def _carry_out(self, run: Run, pace: Pace, others_wait: Callable[[], bool]) -> None:
        commands: list[Any] = []
        for attempt in range(MOST_LOSSES):
            if run.view.status == "paused":
                commands.append(Pause())
            if attempt:
                run.record("recovered", lost(run), status="loading", stage=WAITING, reason="")
            try:
                station = self._station(run)
                while not run.mailbox.empty():
                    commands.append(run.next_command(0.0))
                order = Order(portable(run.view), run.submitted, pace, folder_before(run), tuple(commands))
                self.ray.get(station.begin.remote(order))
                commands.clear()
                return self._follow(run, station, others_wait, len(order.view.events))
            except self.ray.exceptions.RayActorError as error:
                run.folder.log_error(error)
                self._let_go()
        raise ClusterError(f"{MOST_LOSSES} machines were lost over this run; the last one's checkpoint is kept.")

    def _station(self, run: Run) -> Any:
        """The station for a run, made where there is none that fits. Raises Withdrawn where the run was stopped meanwhile."""
        there = machines(self.ray)
        cards = any(found.get("GPU", 0) > 0 for found in there)
        needs = needs_of(run.view.settings, cards, self.threads, self.gpus)
        check(needs, there)
        if self.station is None or needs != self.needs:
            self.close()
            actor = self.ray.remote(Station).options(max_concurrency=4, **needs.options())
            self.station, self.needs = actor.remote(self.threads, self.make_trainer), needs
            answer = self.station.ready.remote()
            while not self.ray.wait([answer], timeout=NEWS_S)[0]:
                if run.view.ended:
                    raise Withdrawn(f"The run {run.id} was stopped.")
            version = self.ray.get(answer)
            if version != __version__:
                raise ClusterError(f"A machine of the cluster has dreamerxl {version}, this one {__version__}; install the same.")
        return self.station

    def _follow(self, run: Run, station: Any, others_wait: Callable[[], bool], known: int) -> None:
        """Show here what happens there, and send there what is asked here, until the run has ended. ``known`` events are here."""
        while True:
            command = run.next_command(NEWS_S)
            if command is not None:
                try:
                    self.ray.get(station.obey.remote(command))
                except self.ray.exceptions.RayActorError:
                    run.mailbox.put(command)  # for the next machine
                    raise
            if run.view.ended:  # it was stopped while it was loading
                self.ray.get(station.obey.remote(Stop(run.view.reason)))
                return
            news = self.ray.get(station.news.remote(others_wait()))
            known = show(run, news, known)
            if run.view.ended:
                return

    def _let_go(self) -> None:
        if self.station is not None:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.ray.kill(self.station)
        self.station = self.needs = None


def show(run: Run, news: News, known: int) -> int:
    """Make a run like the one that the news are of: its files, then its view, then its events beyond ``known`` there, of which
    the last may end it. Gives how many are known then. Raises RunFolderError where the folder cannot be written."""
    with explained(run.folder.path):
        apply(run.folder.path, news.changes)
    run.machine = news.machine or run.machine
    view = news.view
    shown: dict[str, Any] = {name: getattr(view, name) for name in SHOWN}
    if news.snapshot is not None:
        shown["snapshot"] = unpacked(news.snapshot)
    events = [event for event in view.events[known:] if event.kind != "loading"]  # that was said when a machine was asked for
    for event in events:
        run.update(iteration=event.iteration)
        changes: dict[str, Any] = shown | {"status": view.status, "reason": view.reason} if event is events[-1] else {}
        run.record(event.kind, event.text, event.details, **changes)
    run.update(**shown)
    return len(view.events)


def lost(run: Run) -> str:
    """What is said when the machine of a run died."""
    newest = checkpoint.latest(run.folder.checkpoints)
    where = f"goes on from iteration {int(newest.stem)}" if newest is not None else "begins again"
    return f"The machine that trained this run was lost at iteration {run.view.iteration}; the run {where} on another."


def folder_before(run: Run) -> tuple[Change, ...]:
    """What a run goes on from: its own folder, once that has a checkpoint, else that of the run that it takes up, if any."""
    own = checkpoint.latest(run.folder.checkpoints) is not None
    source = run.folder.path if own else run.start
    return tuple(Mirror(source, OWN).changes()) if source is not None else ()


def portable(view: RunView) -> RunView:
    """A view that can be sent: whose it is stays here."""
    return replace(view, snapshot=None, owner=None, owner_key="")


def packed(snapshot: Snapshot | None) -> Snapshot | None:
    """A snapshot that can be sent: proxies cannot."""
    if snapshot is None:
        return None
    return replace(snapshot, sides=tuple(replace(side, metrics=dict(side.metrics)) for side in snapshot.sides))


def unpacked(snapshot: Snapshot) -> Snapshot:
    """A snapshot as it was before it was packed, with arrays that nobody can write to."""

    def kept(item: Any, names: Sequence[str]) -> dict[str, Any]:
        return {name: sealed(getattr(item, name)) for name in names}

    sides = tuple(
        replace(
            side,
            metrics=MappingProxyType(dict(side.metrics)),
            splats=replace(side.splats, **kept(side.splats, ("means", "quats", "scales", "opacities", "rgbs"))),
            **kept(side, ("render", "depth", "x0_hat", "gradient", "clipped")),
        )
        for side in snapshot.sides
    )
    return replace(snapshot, sides=sides, frustums=sealed(snapshot.frustums))
