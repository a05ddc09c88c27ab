"""What the Lab tab asks for: figures and small sweeps that are made in the queue, one folder each, kept and found again.

    runs/lab/ID/   job.json, figure-NAME.png or .svg, figure-NAME.json (the data), settings.yaml
                   or differences.svg, report.html, data.json, sweep.yaml
What needs the models takes its turn between the runs, on the worker thread; the toys are made at once on a thread of this desk.
Commands go in by id and owner; what comes out is immutable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import yaml

from dreamerxl.config import Settings, parse_value
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.files import replacing
from dreamerxl.guidance.hub import Say
from dreamerxl.lab.executor import LocalExecutor
from dreamerxl.lab.figures import FIGURES, TOYS, make_figure
from dreamerxl.lab.report import gather, write_report
from dreamerxl.lab.sweep import Case, Sweep, write_outcome
from dreamerxl.runs.manager import RunManager, check_runnable
from dreamerxl.runs.run import ID_PATTERN, key_of, new_id
from dreamerxl.runs.worker import MakeTrainer

Status = Literal["queued", "working", "done", "failed", "stopped"]
MOST_KEPT = 60  # figures that are listed
MOST_WAITING, MOST_OWN = 8, 3  # of all visitors, of one
SWEEP = "sweep"
MOST_VALUES, MOST_PROMPTS, MOST_SEEDS = 8, 8, 3  # of a visitor's sweep; the command line has no such limits
Work: TypeAlias = Callable[[Path, MakeTrainer, Say], Sequence[str]]  # makes files in a folder; their names, the picture first


@dataclass(frozen=True)
class Job:
    """A figure or sweep that was asked for, at one moment."""

    id: str
    name: str  # of lab.figures.FIGURES, or SWEEP
    prompt: str
    created: float  # seconds since the epoch
    owner_key: str
    status: Status = "queued"
    stage: str = ""  # what is going on, or why it failed
    files: tuple[str, ...] = ()  # the picture first

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed", "stopped")

    def belongs_to(self, owner: str | None) -> bool:
        return bool(owner) and key_of(owner) == self.owner_key


class Withdrawn(DreamerError):
    """The figure was stopped while it was being made."""


class LabDesk:
    """One for the whole program; every method may be called from any thread."""

    def __init__(self, manager: RunManager) -> None:
        self.manager = manager
        self.folder = manager.runs_dir / "lab"
        self._lock = threading.Lock()  # guards the three below
        self._jobs: dict[str, Job] = {job.id: job for job in read_jobs(self.folder)}
        self._futures: dict[str, Future[Any]] = {}
        self._stopped: set[str] = set()
        self._toys = ThreadPoolExecutor(1, thread_name_prefix="dreamerxl-toys")

    def order(self, name: str, settings: Settings, owner: str) -> Job:
        """Have a figure made for a visitor with some settings. Raises DreamerError with a sentence."""
        if name not in FIGURES:
            raise DreamerError(f"There is no figure {name[:40]!r}; figures: {', '.join(FIGURES)}.")
        check_runnable(settings)
        if name not in TOYS:
            self.manager.limits.check(settings)
        return self._queue(name, "" if name in TOYS else settings.prompt, owner, figure_work(name, settings))

    def order_sweep(self, sweep: Sweep, owner: str) -> Job:
        """Have a sweep run for a visitor. Raises DreamerError with a sentence."""
        check_runnable(dataclasses.replace(sweep.base, prompt=sweep.prompts[0]))
        self.manager.limits.check(sweep.base, runs=len(sweep.tasks()))
        return self._queue(SWEEP, sweep.name, owner, sweep_work(sweep))

    def _queue(self, name: str, prompt: str, owner: str, work: Work) -> Job:
        created = time.time()
        job = Job(new_id(created), name, prompt, created, key_of(owner))
        with self._lock:
            waiting = [other.owner_key for other in self._jobs.values() if not other.ended]
            if len(waiting) >= MOST_WAITING:
                raise DreamerError(f"{len(waiting)} of these are being made or wait already; ask again when some are done.")
            self.manager.limits.check_own(waiting.count(job.owner_key))
            if waiting.count(job.owner_key) >= MOST_OWN:
                raise DreamerError(
                    f"{MOST_OWN} of yours are being made or wait already; stop one, or ask again when one is done."
                )
            self._jobs[job.id] = job
        try:
            if name in TOYS:
                future = self._toys.submit(self._make, job.id, work, no_trainer)
            else:
                future = self.manager.call(lambda make_trainer: self._make(job.id, work, make_trainer))
        except BaseException:
            with self._lock:
                del self._jobs[job.id]
            raise
        with self._lock:
            self._futures[job.id] = future
        future.add_done_callback(lambda done: self._ended(job.id, done))
        return job

    def stop(self, job_id: str, owner: str | None) -> None:
        """Take a visitor's figure back: at once where it waits, else within an iteration. Raises DreamerError."""
        job = self._own(job_id, owner)
        with self._lock:
            self._stopped.add(job.id)
            future = self._futures.get(job.id)
        if future is not None:
            future.cancel()

    def delete(self, job_id: str, owner: str | None) -> None:
        """Remove a visitor's figure that has ended, and its files. Raises DreamerError."""
        job = self._own(job_id, owner)
        if not job.ended:
            raise DreamerError("This figure is still being made; stop it first.")
        with self._lock:
            self._jobs.pop(job.id, None)
        shutil.rmtree(self.folder / job.id, ignore_errors=True)

    def jobs(self) -> list[Job]:
        """What was asked for, newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)[:MOST_KEPT]

    def file(self, job_id: str, name: str) -> Path | None:
        """The file of that name of a figure, or None. Nothing but what the figure itself wrote has a name here."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or name not in job.files:
            return None
        path = self.folder / job.id / name
        return path if path.is_file() else None

    def close(self) -> None:
        """Stop what is being made."""
        with self._lock:
            self._stopped |= set(self._jobs)
            futures = list(self._futures.values())
        for future in futures:
            future.cancel()
        self._toys.shutdown(wait=False, cancel_futures=True)

    def _own(self, job_id: str, owner: str | None) -> Job:
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise DreamerError("There is no such figure.")
        if not job.belongs_to(owner):
            raise DreamerError("This figure was asked for by another visitor; only they can stop or delete it.")
        return job

    def _change(self, job_id: str, **changes: Any) -> Job | None:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None:
                job = self._jobs[job_id] = dataclasses.replace(job, **changes)
        return job

    def _make(self, job_id: str, work: Work, make_trainer: MakeTrainer) -> tuple[str, ...]:
        """Do the work and name its files; on whichever thread owns what ``make_trainer`` gives."""

        begun, most = time.monotonic(), self.manager.limits.seconds

        def say(stage: str) -> None:
            with self._lock:
                stopped = job_id in self._stopped
            if stopped:
                raise Withdrawn("Stopped on request.")
            if most is not None and time.monotonic() - begun >= most:
                raise DreamerError(f"It was stopped: what is made here may take {most:g} s.")
            self._change(job_id, status="working", stage=stage)

        say("It begins.")
        try:
            return tuple(work(self.folder / job_id, make_trainer, say))
        finally:
            gc.collect()  # a trainer's parts refer to each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _ended(self, job_id: str, future: Future[Any]) -> None:
        """Note how a figure ended, and keep it on disk where it came to something."""
        try:
            job = self._change(job_id, status="done", stage="", files=future.result())
            if job is not None:
                with replacing(self.folder / job_id / "job.json") as temporary:
                    temporary.write_text(json.dumps(dataclasses.asdict(job), ensure_ascii=False), encoding="utf-8")
        except (CancelledError, Withdrawn):
            self._change(job_id, status="stopped", stage="Stopped on request.")
        except DreamerError as error:
            self._change(job_id, status="failed", stage=str(error))
        except Exception:
            self._change(job_id, status="failed", stage="It could not be made; the program's log has the details.")
            logging.getLogger(__name__).exception("A figure could not be made.")
        with self._lock:
            self._futures.pop(job_id, None)
            self._stopped.discard(job_id)


def figure_work(name: str, settings: Settings) -> Work:
    """Makes a figure with some settings."""

    def work(folder: Path, make_trainer: MakeTrainer, say: Say) -> Sequence[str]:
        files = [path.name for path in make_figure(name, settings, make_trainer, say).save(folder)]
        write_text(folder / "settings.yaml", yaml.safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True))
        return (*files, "settings.yaml")

    return work


def sweep_work(sweep: Sweep) -> Work:
    """Runs a sweep, one run after another; its run folders go when it has been measured. It can be stopped between two runs."""

    def work(folder: Path, make_trainer: MakeTrainer, say: Say) -> Sequence[str]:
        tasks = sweep.tasks()
        say(f"The first of {len(tasks)} runs has begun.")
        try:
            outcomes: Any = LocalExecutor(make_trainer=make_trainer).run(tasks, folder, sweep.metrics)
            with contextlib.closing(outcomes):  # ends its worker also where ``say`` raises
                for count, (task, outcome) in enumerate(outcomes, 1):
                    write_outcome(folder, task, outcome)
                    say(f"{count} of {len(tasks)} runs are done.")
        finally:
            shutil.rmtree(folder / "runs", ignore_errors=True)
        done, failed, _ = gather(sweep, folder)
        if not done:
            raise DreamerError(failed[0]["error"])
        report = write_report(sweep, folder)
        write_text(folder / "sweep.yaml", sweep.source)
        return ("differences.svg", report.name, "data.json", "sweep.yaml")

    return work


def typed_sweep(base: Settings, setting: str, values: str, prompts: str, seeds: int) -> Sweep:
    """A sweep over one setting of a side: values apart by commas (the first is the baseline), prompts a line each, seeds from
    that of the base on. Raises SettingsError with a sentence."""
    texts = [text.strip() for text in values.split(",") if text.strip()]
    lines = [line.strip() for line in prompts.splitlines() if line.strip()] or [base.prompt]
    for what, count, most in (("values", len(texts), MOST_VALUES), ("prompts", len(lines), MOST_PROMPTS)):
        if not 1 <= count <= most:
            raise SettingsError(f"The sweep has {count} {what}; 1 to {most} are accepted here, any number on the command line.")
    if not 1 <= seeds <= MOST_SEEDS:
        raise SettingsError(f"The sweep has {seeds} seeds; 1 to {MOST_SEEDS} are accepted here, any number on the command line.")
    if len(set(texts)) < len(texts) or len(set(lines)) < len(lines):
        raise SettingsError("The sweep names a value or a prompt twice; each counts once.")
    leaf = setting.rpartition(".")[2]
    cases = tuple(Case(f"{leaf} {text}", {setting: parse_value(text)}) for text in texts)
    numbers = tuple(base.seed + index for index in range(seeds))
    told = {
        "name": f"{leaf}: {', '.join(texts)}",
        "settings": base.to_dict(),
        "prompts": lines,
        "seeds": list(numbers),
        "cases": [{"name": case.name, **case.changes} for case in cases],
        "baseline": cases[0].name,
    }
    source = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    sweep = Sweep(told["name"], "", base, tuple(lines), numbers, cases, cases[0].name, source=source)
    sweep.tasks()  # what cannot be run is told now
    return sweep


def write_text(path: Path, text: str) -> None:
    """A file, whole or not at all. Raises RunFolderError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def no_trainer(settings: Settings, say: Say) -> Any:
    """What a toy is given in place of models."""
    raise DreamerError("This figure needs no model.")


def read_jobs(folder: Path) -> list[Job]:
    """The figures that earlier programs made, as far as they can be read."""
    found = []
    for path in folder.glob("*/job.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            job = Job(**{**told, "files": tuple(told["files"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        plain = all(isinstance(name, str) and Path(name).name == name for name in job.files)
        if job.id == path.parent.name and ID_PATTERN.fullmatch(job.id) and job.name in (*FIGURES, SWEEP) and plain:
            found.append(job)
    return found
