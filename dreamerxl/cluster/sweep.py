"""The tasks of a sweep on a Ray cluster: the longest first, on as many hosts as it has room for.

    host   an actor with the processors, the share of a card and the memory that a run needs. It holds one body and gives it
           one task after another, so that a model stays warm in it
    body   what carries out tasks: anything with ``outcome``, ``stop`` and ``close``
    store  where run folders, checkpoints and outcomes stand, by URL; a host's own disk holds only the run that it is at

A checkpoint is in the store before the run goes on. So when a host dies, another takes its task up from there and loses one
checkpoint interval at most, and the outcome is the same to the bit. A host has one task at a time and the driver holds no
more than that: what waits is a list of tasks.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from dreamerxl import __version__
from dreamerxl.cluster.connect import ClusterError, connect, machines
from dreamerxl.cluster.mirror import Mirror
from dreamerxl.cluster.needs import Needs, check, cost, needs_of
from dreamerxl.cluster.scratch import Scratch
from dreamerxl.cluster.store import Store
from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.guidance.hub import Say
from dreamerxl.lab.executor import Outcomes, Worker
from dreamerxl.lab.sweep import Task, is_done
from dreamerxl.runs.prepare import Preparation
from dreamerxl.runs.worker import Prepared

MOST_LOSSES = 3  # hosts that may die over one task, or in a row before one is ready
CANCEL_S = 60.0  # for runs in progress to end after their iteration and to leave a checkpoint
STOPPED = "The sweep was stopped; started again, it goes on from here."


class Body(Protocol):
    """Carries out tasks on a host. ``stop`` is called from another thread."""

    def outcome(self, task: Task) -> dict[str, Any]: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class StoredWorker:
    """A sweep's worker whose run folders are kept in a store, as they would be in the folder of the sweep."""

    def __init__(self, url: str, metrics: Sequence[str], threads: int, scratch: Path | None = None) -> None:
        torch.set_num_threads(threads)
        self.store = Store(url)
        self.scratch = Scratch(scratch)
        self.root = self.scratch.path
        self.make_trainer = Preparation()
        self.worker = Worker(self.root, metrics, self._prepare)
        self.mirror = Mirror(self.root)
        self.stopping = False

    def outcome(self, task: Task) -> dict[str, Any]:
        """As the store has it already, or of a run that goes on from the last checkpoint that is there."""
        place = f"outcomes/{task.id}.json"
        known = json.loads(self.store.get(place) or b"null")
        if is_done(known):
            return known
        name = f"runs/{task.id}"
        for _ in self.store.fetch(name, self.root / name):
            pass
        self.mirror = Mirror(self.root / name)
        self.mirror.mark()  # the store has it
        try:
            found = self.worker.outcome(task)
            self.push(name)
            self.store.put(place, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
            return found
        finally:
            shutil.rmtree(self.root / name, ignore_errors=True)

    def push(self, name: str) -> None:
        """Make the store's copy of a task's folder like that of this machine."""
        for change in self.mirror.changes():
            if change.data is None:
                self.store.remove(f"{name}/{change.name}")
            else:
                whole = (self.mirror.folder / change.name).read_bytes() if change.offset else change.data
                self.store.put(f"{name}/{change.name}", whole)

    def stop(self) -> None:
        """End the run in progress after the iteration in hand."""
        self.stopping = True
        run = self.worker.manager.current()
        if run is not None:
            self.worker.manager.stop(run.id, STOPPED)

    def close(self) -> None:
        """Let go of the model and of the disk."""
        self.worker.manager.close()
        self.scratch.close()

    def _prepare(self, settings: Settings, say: Say) -> Prepared:
        prepared = self.make_trainer(settings, say)
        if self.stopping:
            raise DreamerError(STOPPED)
        return replace(prepared, kept=lambda folder: self.push(f"runs/{folder.parent.name}"))


class Host:
    """The actor: one body in a process of its own. ``stop`` and ``close`` come in beside a task."""

    def __init__(self, make_body: Callable[[], Body]) -> None:
        self.body = make_body()

    def ready(self) -> tuple[str, int]:
        """The version of the code here, and the process."""
        return __version__, os.getpid()

    def outcome(self, task: Task) -> dict[str, Any]:
        return self.body.outcome(task)

    def stop(self) -> None:
        self.body.stop()

    def close(self) -> None:
        self.body.close()


@dataclass(frozen=True)
class RayExecutor:
    """Carries out tasks on a cluster (see lab.executor.Executor). ``threads`` a run are all that a result depends on.

    store: a URL, or None for the folder of the sweep, which every machine must then have. hosts: at most so many at a time; None
    takes as many as there is room for. gpus: the share of a card for a run, where the cluster has cards. scratch: where hosts
    keep the run that they are at. make_body(url, metrics, threads, scratch) replaces what carries out a task.
    """

    address: str | None = None
    store: str | None = None
    hosts: int | None = None
    threads: int = 1
    gpus: float | None = None
    scratch: Path | None = None
    make_body: Callable[[str, Sequence[str], int, Path | None], Body] = StoredWorker

    def run(self, tasks: Sequence[Task], root: Path, metrics: Sequence[str]) -> Outcomes:
        """Outcomes as they come. Raises ClusterError where no machine has what a task needs."""
        url, names, make = self.store or str(root.resolve()), tuple(metrics), self.make_body
        threads, scratch = self.threads, self.scratch
        Store(url)  # one that cannot be had is told here
        pool = Pool(connect(self.address), lambda: make(url, names, threads, scratch), self.hosts)
        cards = any(machine.get("GPU", 0) > 0 for machine in pool.machines)
        waiting = [(needs_of(task.settings, cards, threads, self.gpus), task) for task in tasks]
        waiting.sort(key=lambda entry: -cost(entry[1].settings))
        yield from pool.carry_out(waiting)


@dataclass(frozen=True)
class Seat:
    """A host, what it was made for, and the task that it is at; None while it starts or ends."""

    host: Any
    needs: Needs
    task: Task | None = None
    ending: bool = False


class Pool:
    """The hosts of one sweep and what they are at. Used by one thread."""

    def __init__(self, ray: Any, make_body: Callable[[], Body], most: int | None) -> None:
        self.ray, self.make_body, self.most = ray, make_body, most
        self.machines = machines(ray)
        self.seats: dict[Any, Seat] = {}  # by what Ray will answer
        self.waiting: list[tuple[Needs, Task]] = []  # the longest first
        self.losses: Counter[str] = Counter()  # hosts that died over a task, by its id
        self.stillborn = 0  # hosts in a row that died before they were ready

    def carry_out(self, waiting: list[tuple[Needs, Task]]) -> Outcomes:
        """Outcomes of all tasks. When the iterator is closed or interrupted, the runs in progress end and leave checkpoints."""
        self.waiting = waiting
        self._check()
        try:
            self._open()
            while any(seat.task for seat in self.seats.values()) or self.waiting:
                (ready, *_), _ = self.ray.wait(list(self.seats), num_returns=1)
                seat = self.seats.pop(ready)
                if seat.ending:
                    self._leave(seat)
                    continue
                try:
                    answer = self.ray.get(ready)
                except self.ray.exceptions.RayActorError as error:
                    lost = self._lost(seat, error)
                    if lost is not None:
                        yield lost
                    continue
                except self.ray.exceptions.RayTaskError as error:
                    if seat.task is None:
                        raise ClusterError(f"A host cannot start: {_said(error)}.") from None
                    answer: Any = _failure(seat.task, f"The host failed: {_said(error)}.")
                if seat.task is None:
                    self._welcome(answer)
                self._next(seat)
                if seat.task is not None:
                    yield seat.task, answer
        finally:
            self._close()

    def _check(self) -> None:
        """Refuse what no machine has room for, before anything starts."""
        for needs in {needs for needs, _ in self.waiting}:
            check(needs, self.machines)

    def _open(self) -> None:
        """Start hosts for the longest tasks, as many as the machines have room for."""
        free = [dict(machine) for machine in self.machines]
        for needs, _ in self.waiting:
            if self.most is not None and len(self.seats) >= self.most:
                return
            for index, machine in enumerate(free):
                if needs.fits(machine):
                    free[index] = needs.taken_from(machine)
                    self._start(needs)
                    break

    def _start(self, needs: Needs) -> None:
        host = self.ray.remote(Host).options(max_concurrency=2, **needs.options()).remote(self.make_body)
        self.seats[host.ready.remote()] = Seat(host, needs)

    def _next(self, seat: Seat) -> None:
        """Give a host the longest task that it fits; one that fits none makes room for a host that does."""
        for index, (needs, task) in enumerate(self.waiting):
            if needs == seat.needs:
                del self.waiting[index]
                self.seats[seat.host.outcome.remote(task)] = replace(seat, task=task)
                return
        self._let_go(seat)

    def _leave(self, seat: Seat) -> None:
        """End a host that has cleared its disk; there is room for another then."""
        self.ray.kill(seat.host)
        if self.waiting:
            self._start(self.waiting[0][0])

    def _lost(self, seat: Seat, error: Exception) -> tuple[Task, dict[str, Any]] | None:
        """Have another host do the task of one that died; the task's failure where that happened too often."""
        self.ray.kill(seat.host)  # it may only have been out of reach
        if seat.task is None:
            self.stillborn += 1
            if self.stillborn >= MOST_LOSSES:
                raise ClusterError(f"{self.stillborn} hosts in a row died before they were ready: {_said(error)}.")
            self._start(seat.needs)
            return None
        self.losses[seat.task.id] += 1
        if self.losses[seat.task.id] < MOST_LOSSES:
            self.waiting.insert(0, (seat.needs, seat.task))
            self._start(seat.needs)
            return None
        if self.waiting:
            self._start(self.waiting[0][0])
        return seat.task, _failure(seat.task, f"{MOST_LOSSES} hosts died while they had this task: {_said(error)}.")

    def _welcome(self, answer: tuple[str, int]) -> None:
        self.stillborn = 0
        if answer[0] != __version__:
            raise ClusterError(f"A machine of the cluster has dreamerxl {answer[0]}, this one {__version__}; install the same.")

    def _close(self) -> None:
        busy = {answer: seat for answer, seat in self.seats.items() if seat.task is not None}
        for seat in busy.values():
            seat.host.stop.remote()
        if busy:
            self.ray.wait(list(busy), num_returns=len(busy), timeout=CANCEL_S)
        for answer, seat in busy.items():
            del self.seats[answer]
            self._let_go(seat)
        ending = [answer for answer, seat in self.seats.items() if seat.ending]
        if ending:
            self.ray.wait(ending, num_returns=len(ending), timeout=CANCEL_S)
        for seat in self.seats.values():
            self.ray.kill(seat.host)
        self.seats.clear()

    def _let_go(self, seat: Seat) -> None:
        """Have a host clear its disk before it ends."""
        self.seats[seat.host.close.remote()] = replace(seat, task=None, ending=True)


def _failure(task: Task, reason: str) -> dict[str, Any]:
    told = {"id": task.id, "prompt": task.prompt, "seed": task.seed, "cases": list(task.cases), "left out": []}
    return told | {"error": reason}


def _said(error: BaseException) -> str:
    """The last line of what Ray tells, which is the cause's own."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
