"""Starts a run and stops it, again and again, and says what was left behind and how long a stop took.

    python benchmarks/start_stop.py [--cycles 50] [--warm 3] [--preset duck] [--model NAME]

A run is stopped at a random moment: while it loads, in its first iterations, in its full course, while it is paused. A
figure is taken when it has ended and its worker waits for the next. What the first --warm cycles leave (compiled kernels,
the model, which is kept for the next run) is not counted. Memory that a C library's allocator keeps for later is: a program
that grows by it grows.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.footprint import Footprint, footprint, largest
from dreamerxl.config import Settings, load_preset
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import MakeTrainer

LATEST = 12  # iterations after which a run is stopped at the latest


@dataclass
class Tally:
    """What the cycles took and left."""

    left: list[Footprint] = field(default_factory=list)  # after each cycle
    seconds: list[float] = field(default_factory=list)  # from the stop to the end, files written
    iterations: list[int] = field(default_factory=list)  # done after the stop was asked for


def start_and_stop(folder: Path, settings: Settings, cycles: int, seed: int = 0, make: MakeTrainer | None = None) -> Tally:
    """The figures of as many cycles with one manager."""
    chance, tally = random.Random(seed), Tally()
    manager = RunManager(folder, make)
    for cycle in range(cycles):
        run = manager.submit(settings.override({"seed": cycle}))
        target = chance.choice([-1, 0, 1, 2, chance.randint(3, LATEST)])  # -1: whatever it is at, loading most likely
        while run.view.iteration < target and not run.view.ended:
            time.sleep(0.002)
        if target > 2 and cycle % 2:
            manager.pause(run.id)
            while run.view.status != "paused":
                time.sleep(0.002)
        begun, at = time.monotonic(), run.view.iteration
        manager.stop(run.id)
        if not run.wait(60) or run.view.status != "stopped":
            raise SystemExit(f"cycle {cycle}: the run is {run.view.status}: {run.view.reason}")
        tally.seconds.append(time.monotonic() - begun)
        tally.iterations.append(run.view.iteration - at)
        while manager.current() is not None:  # its trainer is let go of by then
            time.sleep(0.002)
        tally.left.append(footprint())
    manager.close()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--warm", type=int, default=3, help="cycles that are not compared")
    parser.add_argument("--preset", default="duck")
    parser.add_argument("--model", help="another model than the preset's")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    settings = load_preset(arguments.preset)
    if arguments.model:
        settings = settings.override({"model": arguments.model})
    with tempfile.TemporaryDirectory() as folder:
        tally = start_and_stop(Path(folder), settings, arguments.warm + arguments.cycles, arguments.seed)
    for cycle, left in enumerate(tally.left, 1 - arguments.warm):
        print(f"{cycle:4} {left}")
    first, most = tally.left[arguments.warm], largest(tally.left[arguments.warm :])
    print(f"after the first   {first}\nat most           {most}")
    print(f"grown by at most {100 * (most.resident_mb / first.resident_mb - 1):.1f} %, {most.threads - first.threads} threads")
    if first.card_mb:
        print(f"memory of the card by at most {100 * (most.card_mb / first.card_mb - 1):.1f} %")
    print(f"a stop took {max(tally.seconds):.2f} s and {max(tally.iterations)} iterations at most")


if __name__ == "__main__":
    main()
