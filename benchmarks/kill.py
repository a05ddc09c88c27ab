"""Kills a program that trains at random moments, writes of checkpoints included, and has the next one go on.

    python benchmarks/kill.py [--kills 100] [--seed 0]

A run of the embedded model is begun by a process, which is ended by SIGKILL; the next process finds it cut off and takes it
up, and is killed too. After the last kill a process may finish. Counted: kills after which a run with a readable checkpoint is
offered, the most iterations that a kill cost, and whether the scenes are those of a run that was never disturbed, to the bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dreamerxl.config import Settings
from dreamerxl.runs.folder import RunFolder
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import RunView
from dreamerxl.training import checkpoint

EVERY = 4  # iterations between two checkpoints
SMALL = {"views.batch": 1, "views.resolution": 32, "initialization.count": 100, "checkpoint_every": EVERY}
DENSE = {"densification.start": 10, "densification.every": 35, "densification.grad_threshold": 1e-6}
MOST = {"densification.max_count": 3000, "densification.reset_every": 70}
EARLY = 0.2  # of the kills come at any moment from the start of the program, the others while it trains


@dataclass
class Tally:
    """What the kills left behind."""

    readable: list[bool] = field(default_factory=list)  # after each kill: a run is offered, with a checkpoint that can be loaded
    lost: list[int] = field(default_factory=list)  # iterations between it and the last line of the metrics
    too_early: int = 0  # kills before anything was done
    identical: bool = False

    @property
    def worst(self) -> int:
        return max(self.lost, default=0)


def settings_for(iterations: int) -> Settings:
    """A small run with densification in between."""
    return Settings(prompt="a red duck").override(
        SMALL | DENSE | MOST | {"iterations": iterations, "variants": [{"method": "tsm"}]}
    )


def child(runs: str, plain: dict[str, Any]) -> None:
    """Take up the run that was cut off, or begin it, and train to the end."""
    manager = RunManager(runs)
    cut_off = manager.cut_off()
    run = manager.take_up(cut_off[0].id) if cut_off else manager.submit(Settings.from_dict(plain))
    run.wait()
    manager.close()


def kill_again_and_again(folder: Path, kills: int, iterations: int, seed: int = 0) -> Tally:
    """The figures; the run that is killed lies in ``folder``/killed and one that is not in ``folder``/whole."""
    chance, tally, settings = random.Random(seed), Tally(), settings_for(iterations)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dreamerxl.runs.manager"])
    runs, plain = folder / "killed", settings.to_dict()
    for _ in range(kills):
        process = context.Process(target=child, args=(str(runs), plain))
        process.start()
        if chance.random() < EARLY:
            process.join(chance.uniform(0.0, 3.0))
        else:
            wait_for_an_iteration(runs, process)
            process.join(chance.uniform(0.0, 0.8))
        if not process.is_alive():
            break  # it was done before it could be killed
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        look(runs, tally)
    for name in ("killed", "whole"):
        process = context.Process(target=child, args=(str(folder / name), plain))
        process.start()
        process.join()
    ended = [RunManager(folder / name).runs()[0] for name in ("killed", "whole")]
    tally.identical = len({scene_bytes(view) for view in ended}) == 1 and all(view.status == "done" for view in ended)
    return tally


def wait_for_an_iteration(runs: Path, process: Any) -> None:
    """Until the newest run has trained for one iteration more than it began with, or its process has ended."""
    newest: tuple[Path, int] | None = None
    while process.is_alive():
        found = sorted(runs.glob("*/run.json"))
        if found and (newest is None or newest[0] != found[-1].parent):
            newest = (found[-1].parent, lines_of(found[-1].parent))
        if newest is not None and lines_of(newest[0]) > newest[1] and '"running"' in (newest[0] / "run.json").read_text():
            return
        time.sleep(0.01)


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def look(runs: Path, tally: Tally) -> None:
    """Add what the next program finds: the run that it offers, what that can go on from, and what was done beyond."""
    manager = RunManager(runs)
    newest, offered = next(iter(manager.runs()), None), next(iter(manager.cut_off()), None)
    manager.close()
    folders = {view.folder for view in (newest, offered) if view is not None}
    done = max((line["iteration"] for folder in folders for line in RunFolder(folder).read_metrics()), default=0)
    if done == 0:
        tally.too_early += 1
        return
    kept = None if offered is None else checkpoint.latest(offered.folder / "checkpoints")
    tally.readable.append(kept is not None)
    if kept is not None:
        tally.lost.append(done - int(checkpoint.load(kept).values["iteration"]))


def scene_bytes(view: RunView) -> tuple[bytes, ...]:
    """The Gaussians of the sides, without what their files say of the run."""
    scenes = sorted((view.folder / "scenes").glob("*.ply"))
    return tuple(path.read_bytes().partition(b"end_header\n")[2] for path in scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_again_and_again(Path(folder), arguments.kills, arguments.iterations, arguments.seed)
    kills = tally.too_early + len(tally.readable)
    print(f"{kills} kills in {time.monotonic() - begun:.0f} s, {tally.too_early} of them before an iteration was done")
    print(f"a run with a readable checkpoint was offered after {sum(tally.readable)} of the other {len(tally.readable)}")
    print(f"at most {tally.worst} iterations were lost, with a checkpoint every {EVERY}")
    print(f"the scenes are {'bit-identical to' if tally.identical else 'NOT those of'} an undisturbed run's")


if __name__ == "__main__":
    main()
