"""Carries out one run: loading, iterations, commands between them, snapshots, files. Called by the worker thread alone."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dreamerxl import logs
from dreamerxl.cameras import frustums
from dreamerxl.config import Settings, Variant
from dreamerxl.errors import DreamerError, NumericalError, RunFolderError
from dreamerxl.gaussians.ply import write_ply
from dreamerxl.gaussians.scene import FrozenSplats, freeze
from dreamerxl.guidance.hub import Say
from dreamerxl.runs.curves import Curves
from dreamerxl.runs.folder import RunFolder, explained, scene_paths
from dreamerxl.runs.growth import Growth, moments
from dreamerxl.runs.marks import Judge, append_marks, read_marks, take_marks
from dreamerxl.runs.metadata import describe, to_text
from dreamerxl.runs.run import VIEW_SHARE, Run
from dreamerxl.runs.snapshot import Snapshot, labels, metrics, sealed, take_sides
from dreamerxl.runs.trim import trim
from dreamerxl.training import checkpoint
from dreamerxl.training.memory import is_out_of_memory, what_needs_less
from dreamerxl.training.trainer import slower

SLOWEST_SNAPSHOTS_S = 1.2  # the view is to change every two seconds at least, and an iteration may come in between
KEPT_CHECKPOINTS = 2
RECOVERY = 0.5  # of every learning rate is left after something was not finite
MARKED = 2  # of so many moments one gets marks, besides the last: they cost renders and a judgement


class TrainerLike(Protocol):
    """What a run needs of a trainer (dreamerxl.training.trainer.Trainer)."""

    @property
    def iteration(self) -> int: ...
    @property
    def sides(self) -> Sequence[Any]: ...
    def step(self) -> Any: ...
    def replace_variant(self, index: int, variant: Variant) -> None: ...
    def slow_down(self, factor: float) -> None: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """What ``make_trainer(settings, say)`` gives: a trainer ready for its first step and what was chosen for it."""

    trainer: TrainerLike
    decode: Callable[[Tensor], Tensor]  # latents [B, C, h, w] -> images [B, 3, H, W] in 0..1
    model: str = ""
    device: str = "cpu"
    notices: tuple[str, ...] = ()
    judge: Judge | None = None  # scores renders, where the model brings one
    kept: Callable[[Path], None] | None = None  # is told of each checkpoint, with the run's folder, before the run goes on


MakeTrainer = Callable[[Settings, Say], Prepared]


@dataclass(frozen=True)
class Pause:
    """Wait after the iteration in hand."""


@dataclass(frozen=True)
class Resume:
    """Go on."""


@dataclass(frozen=True)
class Stop:
    """End after the iteration in hand and keep the scenes."""

    reason: str


@dataclass(frozen=True)
class Change:
    """Settings of one side (or of all, side None) from the next iteration on."""

    side: int | None
    changes: Mapping[str, Any]

    def dotted(self) -> dict[str, Any]:
        prefix = "variants" if self.side is None else f"variants.{self.side}"
        return {f"{prefix}.{name}": value for name, value in self.changes.items()}


@dataclass(frozen=True)
class Watch:
    """Give that share of the time to snapshots for the viewer, from now on."""

    share: float


@dataclass(frozen=True)
class Pace:
    """How often snapshots are taken, how long a paused run may keep others waiting, and how long a run may train."""

    snapshot_seconds: float = 0.45
    pause_limit_seconds: float = 600.0
    view_share: float = VIEW_SHARE  # of the time may go into snapshots
    most_seconds: float | None = None


def snapshot_interval(pace: Pace, costs: Sequence[float]) -> float:
    """Seconds from one snapshot to the next. The least of the latest costs counts: one snapshot that took long because
    others had the cores is no reason to wait. A share of the time other than VIEW_SHARE stretches or shortens it all."""
    usual = max(pace.snapshot_seconds, min(min(costs) / VIEW_SHARE, SLOWEST_SNAPSHOTS_S))
    return usual * (VIEW_SHARE / pace.view_share)


def carry_out(run: Run, make_trainer: MakeTrainer, pace: Pace, others_wait: Callable[[], bool]) -> None:
    """Take a queued run to its end. Never raises: a failure becomes the run's status with its reason."""
    session = None
    try:
        if not run.record("loading", "Loading the model.", expect={"queued"}, status="loading", queue_position=0):
            return
        begun = time.monotonic()
        prepared = make_trainer(run.view.settings, lambda stage: tell(run, stage))
        session = Session(run, prepared, pace, others_wait, loading=time.monotonic() - begun)
        session.train()
    except Withdrawn:
        pass  # its record says who stopped it
    except BaseException as error:  # the thread must outlive whatever a library raises
        run.folder.log_error(error)
        where = logs.places(error.__traceback__)
        logs.tell("an error ended a run", logging.ERROR, run=run.id, error=type(error).__name__, where=where)
        if session is not None:
            session.rescue_scenes()
        reason = sentence(error, run.view.settings)
        run.record("failed", reason, status="failed", reason=reason, eta_s=0.0)
    finally:
        session = prepared = None
        gc.collect()  # optimiser, graph and generators refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        trim()


class Withdrawn(DreamerError):
    """The run was stopped while its model was loading."""


class Abandoned(DreamerError):
    """The run was stopped while the disk refused what it had to write."""


def tell(run: Run, stage: str) -> None:
    """Show what the loading is at. Raises Withdrawn to end the loading of a run that has been stopped meanwhile."""
    if not run.update(expect={"loading"}, stage=stage):
        raise Withdrawn(f"The run {run.id} was stopped.")


def sentence(error: BaseException, settings: Settings) -> str:
    """The reason of a failure in words for the person who asked for the run."""
    if isinstance(error, DreamerError):
        return str(error)
    if is_out_of_memory(error):
        return what_needs_less(settings)
    detail = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    said = f"An unexpected {type(error).__name__} ended the run{': ' + detail if detail else ''}."
    return f"{said} The run's log.jsonl has the details."


class Session:
    """A run in training, with the clocks and curves that only the worker thread sees."""

    def __init__(self, run: Run, prepared: Prepared, pace: Pace, others_wait: Callable[[], bool], loading: float):
        self.run, self.prepared, self.pace, self.others_wait = run, prepared, pace, others_wait
        self.trainer = prepared.trainer
        self.settings = run.view.settings
        self.report: Any = None
        self.curves, self.marks = Curves(), Curves()
        self.growth = Growth(run.folder.growth, self.settings.iterations)
        self.kept: int | None = None  # the iteration of the latest moment of the growth
        self.moments = 0  # how many were kept
        self.recovered = False  # whether it went back once already
        self.spared: set[str] = set()  # what failed beside the training
        self.seconds_per_iteration: float | None = None
        self.snapshot_at, self.snapshot_costs = 0.0, deque([0.0], maxlen=2)
        self.timings = {"loading": loading, "iterations": 0.0, "snapshots": 0.0, "paused": 0.0}

    def train(self) -> None:
        """Iterate until the settings' iterations are done or a Stop arrives; then write the scenes and end the run."""
        prepared = self.prepared
        started = self.run.record(
            "started",
            f"Training on {prepared.device} with {prepared.model}.",
            expect={"loading"},
            status="running",
            model=prepared.model,
            device=prepared.device,
            notices=prepared.notices,
            stage="",
        )
        if not started:  # stopped while the model was loading
            return
        if self.run.start is not None:
            self.take_up(self.run.start)
        try:
            status, reason = self.iterate_to_the_end()
        except Abandoned as abandoned:
            status, reason = "stopped", str(abandoned)
        text = reason or f"All {self.settings.iterations} iterations are done."
        self.run.record(status, text, status=status, reason=reason, eta_s=0.0, timings=dict(self.timings))

    def iterate_to_the_end(self) -> tuple[Literal["done", "stopped"], str]:
        """Iterate, obeying commands in between, and write what is left. How it ended, and why where it was stopped."""
        if self.settings.checkpoint_every:
            self.write(self.save_checkpoint)  # something to go back to, or to go on from, before the first interval is over
        stop = self.obey()
        while stop is None and self.trainer.iteration < self.settings.iterations:
            self.iterate()
            stop = (self.obey() or self.out_of_time()) if self.trainer.iteration < self.settings.iterations else None
        if self.report is not None:
            self.spare("The view", self.publish_snapshot)
            if self.kept != self.trainer.iteration:
                self.keep_moment()
        self.write(self.save_scenes)
        self.write(self.save_checkpoint)
        self.write(self.run.write)
        return ("done", "") if stop is None else ("stopped", stop.reason)

    def out_of_time(self) -> Stop | None:
        """An end to a run that has trained for as long as one may."""
        most = self.pace.most_seconds
        if most is None or self.timings["iterations"] + self.timings["snapshots"] < most:
            return None
        return Stop(f"Stopped, with its scenes kept: a run may train for {most:g} s here.")

    def write(self, action: Callable[[], None]) -> None:
        """Carry out a write. Where the disk refuses, the run is paused with the reason until it is resumed and the write goes
        through; nothing of the training is lost. Raises Abandoned when it is stopped instead."""
        while True:
            try:
                return action()
            except RunFolderError as error:
                self.run.folder.log_error(error)
                logs.tell("write refused", logging.WARNING, run=self.run.id, text=str(error))
                stop = self.obey(because=f"{error} The run waits; press Resume when that is mended.")
                if stop is not None:
                    raise Abandoned(f"{stop.reason} What it had to write could not be written: {error}") from error
                with contextlib.suppress(RunFolderError):  # the next attempt tells
                    self.run.folder.mend()

    def spare(self, what: str, action: Callable[[], None]) -> None:
        """Carry out what is beside the training; when it fails, the training goes on and says so once."""
        try:
            action()
        except Exception as error:
            self.run.folder.log_error(error)
            if what not in self.spared:
                self.spared.add(what)
                said = f"{what} could not be kept up ({type(error).__name__}: {error}); the training goes on."
                self.run.update(notices=(*self.run.view.notices, said))

    def iterate(self) -> None:
        """One step of the trainer, its metrics, and a snapshot and checkpoint where they are due."""
        begun = time.monotonic()
        try:
            self.report = self.trainer.step()
        except NumericalError as error:
            return self.recover(error)
        seconds = time.monotonic() - begun
        self.timings["iterations"] += seconds
        done = self.trainer.iteration
        sides = metrics(self.report)
        self.curves.add(done, sides)
        line = {"iteration": done, "seconds": round(seconds, 4), "evaluations": self.report.evaluations}
        line |= {"depth": self.report.draw.depth, "sides": sides}
        self.write(lambda: self.run.folder.append_metrics(line))
        every = self.settings.checkpoint_every
        if every and done % every == 0 and done < self.settings.iterations:
            self.write(self.save_checkpoint)
        self.run.update(iteration=done)
        if self.growth.due(done):
            self.keep_moment()
        due = self.snapshot_at + snapshot_interval(self.pace, self.snapshot_costs)
        if done == 1 or time.monotonic() + seconds / 2 >= due:  # now, if the end of the next iteration is farther from due
            self.spare("The view", self.publish_snapshot)
        self.measure(time.monotonic() - begun)

    def recover(self, error: NumericalError) -> None:
        """Once in a run: go back to the newest checkpoint and on from there in smaller steps. Raises the error another time."""
        newest = checkpoint.latest(self.run.folder.checkpoints)
        if self.recovered or newest is None:
            raise error
        self.recovered = True
        self.trainer.load_state_dict(checkpoint.load(newest))
        self.trainer.slow_down(RECOVERY)
        self.settings = slower(self.settings, RECOVERY)
        for index, variant in enumerate(self.settings.variants):  # as they are now, not as they were then
            self.trainer.replace_variant(index, variant)
        done = self.trainer.iteration
        self.curves.forget_after(done)
        self.marks.forget_after(done)
        self.growth.forget_after(done)
        self.write(lambda: self.run.folder.forget_metrics_after(done))
        self.report, self.kept = None, None
        self.run.record(
            "recovered",
            f"{error} The run went back to iteration {done} and goes on with {RECOVERY:g} of its learning rates.",
            {"iteration": done, "learning_rates": RECOVERY},
            settings=self.settings,
            iteration=done,
            history=self.curves.history(),
            marks=self.marks.history(),
        )

    def measure(self, seconds: float) -> None:
        """Publish the smoothed pace. The first iteration compiles and warms up, so the second replaces it."""
        done = self.trainer.iteration
        if self.seconds_per_iteration is None or done <= 2:
            self.seconds_per_iteration = seconds
        else:
            self.seconds_per_iteration += max(0.05, 1 / done) * (seconds - self.seconds_per_iteration)
        left = self.settings.iterations - done
        pace = self.seconds_per_iteration
        self.run.update(its_per_s=1 / max(pace, 1e-9), eta_s=left * pace)

    def obey(self, because: str = "") -> Stop | None:
        """Carry out the commands that have arrived; a Pause, or a reason to pause, waits here for Resume or Stop."""
        paused_at: float | None = None
        stop = None
        if because:
            paused_at = time.monotonic()
            self.run.record("paused", because, status="paused", reason=because)
        while stop is None and (paused_at is not None or not self.run.mailbox.empty()):
            command = self.run.next_command(timeout_s=0.5)
            if isinstance(command, Stop):
                stop = command
            elif isinstance(command, Change):
                self.change(command)
            elif isinstance(command, Watch):
                self.pace = replace(self.pace, view_share=command.share)
                self.run.update(view_share=command.share)
            elif isinstance(command, Pause) and paused_at is None:
                paused_at = time.monotonic()
                self.pause()
            elif isinstance(command, Resume) and paused_at is not None:
                self.timings["paused"] += time.monotonic() - paused_at
                paused_at = None
                self.run.record("resumed", "Resumed.", status="running", reason="")
            elif paused_at is not None and self.others_wait() and time.monotonic() - paused_at > self.pace.pause_limit_seconds:
                stop = Stop("Stopped, with its scenes kept: it was paused for long while others waited.")
        if paused_at is not None:
            self.timings["paused"] += time.monotonic() - paused_at
        return stop

    def pause(self) -> None:
        """Show the newest state, keep it on disk, and say so."""
        if self.report is not None:
            self.spare("The view", self.publish_snapshot)
            self.write(self.save_checkpoint)
        self.run.record("paused", "Paused.", status="paused")

    def change(self, command: Change) -> None:
        """Give the trainer the changed variants. The event's iteration is that of the first step that sees them."""
        settings = self.settings.override(command.dotted())
        for index, (old, new) in enumerate(zip(self.settings.variants, settings.variants, strict=True)):
            if new != old:
                self.trainer.replace_variant(index, new)
        self.settings = settings
        sides = "every side" if command.side is None else f"side {command.side}"
        text = ", ".join(f"{name} = {'off' if value is None else value}" for name, value in command.changes.items())
        details = {"side": command.side, "changes": dict(command.changes)}
        self.run.record("changed", f"{text} on {sides}.", details, settings=settings)

    def publish_snapshot(self) -> None:
        """Detach the scenes and decode the images; the time that this takes sets how often it is done."""
        begun = time.monotonic()
        names = labels(self.settings.variants)
        sides = take_sides(self.trainer.sides, self.report, names, self.prepared.decode)
        cameras = sealed(frustums(self.report.draw.cameras).cpu().numpy())
        view = self.run.view
        snapshot = Snapshot(view.id, self.trainer.iteration, self.settings.iterations, view.its_per_s, view.eta_s, sides, cameras)
        self.run.update(snapshot=snapshot, history=self.curves.history(), timings=dict(self.timings))
        self.snapshot_at = time.monotonic()
        self.snapshot_costs.append(self.snapshot_at - begun)
        self.timings["snapshots"] += self.snapshot_costs[-1]

    def keep_moment(self) -> None:
        """Add the scenes as they are now to the run's growth, with their marks. Where that fails the training goes on."""
        begun = time.monotonic()
        self.spare("The growth", self.add_moment)
        self.timings["snapshots"] += time.monotonic() - begun

    def add_moment(self) -> None:
        self.kept = self.trainer.iteration
        scenes = [freeze(side.params) for side in self.trainer.sides]
        shown = self.run.view.snapshot
        pictures = [side.pictures for side in shown.sides] if shown is not None else []  # of the latest snapshot: they cost much
        self.moments += 1
        self.growth.keep(self.kept, scenes, pictures)
        if self.moments % MARKED == 1 or self.kept >= self.settings.iterations:
            marks = take_marks(scenes, self.prepared.judge)
            append_marks(self.growth.folder, self.kept, marks)
            self.marks.add(self.kept, marks)
            self.run.update(marks=self.marks.history())

    def take_up(self, before: Path) -> None:
        """Go on where the run in that folder stood: its newest checkpoint, its curves and its growth."""
        newest = checkpoint.latest(before / "checkpoints")
        if newest is None:
            raise RunFolderError("The run to go on from left no checkpoint.")
        self.trainer.load_state_dict(checkpoint.load(newest))
        done = self.trainer.iteration
        for index, variant in enumerate(self.settings.variants):  # as asked now, not as they were then
            self.trainer.replace_variant(index, variant)
        earlier = RunFolder(before)
        for line in earlier.read_metrics():
            if line["iteration"] <= done:
                self.run.folder.append_metrics(line)
                self.curves.add(line["iteration"], line["sides"])
        for line in read_marks(earlier.growth):
            if line["iteration"] <= done:
                append_marks(self.growth.folder, line["iteration"], line["sides"])
                self.marks.add(line["iteration"], line["sides"])
        for iteration in moments(earlier.growth, len(self.settings.variants)):
            if iteration <= done:
                self.growth.adopt(earlier.growth, iteration)
        self.run.update(iteration=done, history=self.curves.history(), marks=self.marks.history())

    def save_scenes(self) -> None:
        """Write the scenes as they are now."""
        self.write_scenes([freeze(side.params) for side in self.trainer.sides])

    def save_checkpoint(self) -> None:
        """The trainer's whole state, beside the newest one before it."""
        folder = self.run.folder.checkpoints
        checkpoint.save(folder / f"{self.trainer.iteration:07d}{checkpoint.SUFFIX}", self.trainer.state_dict())
        for old in sorted(folder.glob(f"*{checkpoint.SUFFIX}"))[:-KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        if self.prepared.kept is not None:
            self.prepared.kept(self.run.folder.path)

    def rescue_scenes(self) -> None:
        """After a failure, the scenes of the last snapshot: the trainer's own may be what failed."""
        snapshot = self.run.view.snapshot
        if snapshot is None:
            return
        try:
            self.write_scenes([side.splats for side in snapshot.sides])
        except Exception as error:
            self.run.folder.log_error(error)

    def write_scenes(self, scenes: Sequence[FrozenSplats]) -> None:
        paths = scene_paths(self.run.folder.path, self.settings.variants)
        with explained(self.run.folder.scenes):
            for path, splats in zip(paths, scenes, strict=True):
                write_ply(path, splats, to_text(describe(self.run.view)))
