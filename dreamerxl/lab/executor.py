"""Carries out the tasks of a sweep. An executor is anything with ``run``; the local one has one process, or several.

``run_task`` is all that a worker needs: a task and the sweep's folder go in, an outcome (plain values) comes out, and the
model stays warm in the process. So another executor has only to call it somewhere else.
"""

from __future__ import annotations

import base64
import concurrent.futures
import io
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.guidance.hub import Say
from dreamerxl.lab.evaluate import SIZE, make_metrics
from dreamerxl.lab.probe import TIMESTEPS, probe, probe_cameras
from dreamerxl.lab.sweep import PROBED, Task
from dreamerxl.runs.drawing import camera, extent, orbit, pictures
from dreamerxl.runs.folder import RunFolder
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.prepare import Preparation
from dreamerxl.runs.run import RunView, read_run
from dreamerxl.runs.worker import MakeTrainer, Pace, Prepared
from dreamerxl.training import checkpoint

VIEWS = 24  # of a turn, for the metrics
THUMBNAIL = 112  # pixels
Outcomes: TypeAlias = Iterator[tuple[Task, dict[str, Any]]]
UNSEEN = Pace(snapshot_seconds=1e9)  # nobody watches


class Executor(Protocol):
    """Takes tasks and gives outcomes as they come, in any order. Each task is run once."""

    def run(self, tasks: Sequence[Task], root: Path, metrics: Sequence[str]) -> Outcomes: ...


@dataclass(frozen=True)
class LocalExecutor:
    """One task after another in this process; with ``jobs`` above 1, as many processes, each with its share of the cores.

    ``threads`` a run are the only thing of the machine that a result depends on: sums of another order are rounded
    otherwise. None takes what there is.
    """

    jobs: int = 1
    threads: int | None = None
    make_trainer: MakeTrainer | None = None  # replaces the real one, in this process

    def run(self, tasks: Sequence[Task], root: Path, metrics: Sequence[str]) -> Outcomes:
        if self.jobs == 1:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads or before)
            try:
                with Worker(root, metrics, self.make_trainer) as worker:
                    for task in tasks:
                        yield task, worker.outcome(task)
            finally:
                torch.set_num_threads(before)
            return
        threads = self.threads or max(1, torch.get_num_threads() // self.jobs)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(self.jobs, context, torch.set_num_threads, (threads,)) as pool:
            waiting = {pool.submit(run_task, task, root, tuple(metrics)): task for task in tasks}
            try:
                for done in concurrent.futures.as_completed(waiting):
                    yield waiting[done], done.result()
            finally:
                pool.shutdown(cancel_futures=True)  # what has begun ends by itself, the rest does not begin


_workers: dict[Path, Worker] = {}  # of this process, so that its model stays warm


def run_task(task: Task, root: Path, metrics: Sequence[str]) -> dict[str, Any]:
    """The outcome of a task, by this process's own worker."""
    if root not in _workers:
        _workers[root] = Worker(root, metrics)
    return _workers[root].outcome(task)


class Worker:
    """Runs tasks one by one on a run manager of its own and measures what they made."""

    def __init__(self, root: Path, metrics: Sequence[str], make_trainer: MakeTrainer | None = None) -> None:
        self.root, self.prepared = root, None
        self.metrics, self.absent = make_metrics([name for name in metrics if name not in PROBED])
        self.probed = [name for name in PROBED if name in metrics]
        self._make: MakeTrainer = make_trainer or Preparation()
        self.manager = RunManager(root / "runs", self._keep, pace=UNSEEN)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def outcome(self, task: Task) -> dict[str, Any]:
        """Run a task to its end, from its last checkpoint where it was cut off. A failure is an outcome with an 'error'."""
        told: dict[str, Any] = {"id": task.id, "prompt": task.prompt, "seed": task.seed, "cases": list(task.cases)}
        told["left out"] = self.absent
        try:
            view = self._run(task)
            if view.status != "done":
                return told | {"error": view.reason or f"The run ended as {view.status}."}
            return told | {"sides": self._measure(task, view), "seconds": round(view.timings.get("iterations", 0.0), 2)}
        except DreamerError as error:
            return told | {"error": str(error)}
        finally:
            self.prepared = None

    def _keep(self, settings: Settings, say: Say) -> Prepared:
        self.prepared = self._make(settings, say)
        return self.prepared

    def _run(self, task: Task) -> RunView:
        tries = self.root / "runs" / task.id
        count = len(list(tries.glob("try-*")))
        run = self.manager.submit(task.settings, folder=tries / f"try-{count + 1}", start=cut_off(tries))
        try:
            while not run.wait(0.5):
                pass
        except KeyboardInterrupt:
            self.manager.stop(run.id, "Stopped from the keyboard; the sweep goes on from here when it is started again.")
            run.wait(60)
            raise
        return run.view

    def _measure(self, task: Task, view: RunView) -> list[dict[str, Any]]:
        snapshot, prepared = view.snapshot, self.prepared
        if snapshot is None or prepared is None:
            raise DreamerError("The run left no scene to measure.")
        scenes = [side.splats for side in snapshot.sides]
        turn = orbit(scenes, VIEWS, SIZE)
        seen = camera(extent(scenes), 30.0, 15.0, THUMBNAIL, THUMBNAIL)
        lines = [line["sides"] for line in RunFolder(view.folder).read_metrics()]
        spreads = probed(prepared) if self.probed else []
        found = []
        for index, (case, splats) in enumerate(zip(task.cases, scenes, strict=True)):
            views = np.stack(list(pictures(splats, turn)))
            values = {name: metric(views, task.prompt) for name, metric in self.metrics.items()}
            values |= {name: spreads[index][name] for name in self.probed} if spreads else {}
            values["gradient norm"] = float(np.mean([sides[index]["grad_norm"] for sides in lines]))
            values["clipped share"] = float(np.mean([sides[index]["clipped_share"] for sides in lines]))
            values["Gaussians"] = float(len(splats.means))
            found.append({"case": case, "measures": values, "thumbnail": as_jpeg(next(pictures(splats, seen)))})
        return found


def cut_off(tries: Path) -> RunView | None:
    """The newest try of a task that left a checkpoint and did not end well, to go on from."""
    for path in sorted(tries.glob("try-*"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            view = read_run(path, with_curves=False).view
        except DreamerError:
            continue
        if view.status != "done" and checkpoint.latest(path / "checkpoints") is not None:
            return view
    return None


def probed(prepared: Prepared) -> list[dict[str, float]]:
    """Spreads under several noises for each side; nothing where the trainer is no real one."""
    trainer: Any = prepared.trainer
    if not hasattr(trainer, "guidance"):
        return []
    views = trainer.settings.views
    cameras = probe_cameras(views.resolution, views.fovy_max_deg)
    answers = [probe(trainer, cameras, t) for t in TIMESTEPS]
    return [
        {
            "pseudo truth spread": float(np.mean([of_t[index].spread for of_t in answers])),
            "target spread": float(np.mean([of_t[index].target_spread for of_t in answers])),
            "gradient spread": float(np.mean([of_t[index].gradient_spread for of_t in answers])),
        }
        for index in range(len(trainer.sides))
    ]


def as_jpeg(picture: np.ndarray) -> str:
    """A picture [H, W, 3] as base64 of a small JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode()
