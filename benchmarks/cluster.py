"""What a Ray cluster of this machine gives: throughput of two hosts against one, and what scheduling costs.

    python benchmarks/cluster.py [--rounds 3] [--runs 6] [--simulated 1000] [--cards]

throughput   equal small runs of the embedded model, one thread each, on one host and on two, in turns; the hosts are up and have
             done a run each before the clock starts. Medians, with the machine's load at each. The processor time of a run
             says what two hosts cost each other whatever else the machine is doing. With --cards each host has a card to itself
scheduling   bodies that only sleep. Overhead: the share of the hosts' time, from the first task to the last answer, in which
             they were at none; memory: the driver's resident set after every tenth of the runs
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from dreamerxl.cluster.connect import connect
from dreamerxl.cluster.sweep import RayExecutor, StoredWorker
from dreamerxl.config import Settings
from dreamerxl.lab.sweep import Task

SMALL = {"views.batch": 1, "views.resolution": 64, "initialization.count": 300, "device": "cpu", "variants": [{"method": "tsm"}]}
ITERATIONS = 10
ON_CARD = {"device": "cuda", "variants": [{"method": "tsm"}]}
ON_CARD_ITERATIONS = 150
BODY_S = 0.25  # of a simulated run, on average
SIMULATED_HOSTS = 2


class Together:
    """A body that begins only when every host is up and warm, and tells when its tasks were at work."""

    def __init__(self, body: Any, hosts: int, folder: Path) -> None:
        self.body, self.hosts, self.folder = body, hosts, folder
        self.waited = False

    def outcome(self, task: Task) -> dict[str, Any]:
        if not self.waited:
            if self.body is not None:
                self.body.outcome(dataclasses.replace(task, id=f"warm-{os.getpid()}"))
            (self.folder / f"up-{os.getpid()}").touch()
            while len(list(self.folder.glob("up-*"))) < self.hosts:
                time.sleep(0.01)
            self.waited = True
        begun, spent = time.time(), time.process_time()
        if self.body is None:
            time.sleep(BODY_S * (0.5 + task.seed % 101 / 100))
            found: dict[str, Any] = {"id": task.id}
        else:
            found = self.body.outcome(task)
        return found | {"begun": begun, "ended": time.time(), "spent": time.process_time() - spent}

    def stop(self) -> None:
        if self.body is not None:
            self.body.stop()

    def close(self) -> None:
        if self.body is not None:
            self.body.close()


def tasks(count: int, iterations: int, **changes: Any) -> list[Task]:
    base = Settings(prompt="a red duck", model="embedded").override(changes) if changes else Settings(model="embedded")
    made = [dataclasses.replace(base, seed=seed, iterations=iterations) for seed in range(count)]
    return [Task(f"run-{settings.seed}", settings.prompt, settings.seed, ("one",), settings) for settings in made]


def spans(executor: RayExecutor, todo: Sequence[Task], root: Path, each: Any = None) -> list[tuple[float, float, float]]:
    """When each task was at work, from and to, and its processor time; seconds."""
    found = []
    for count, (task, outcome) in enumerate(executor.run(todo, root, ("pixel distance",)), 1):
        if "error" in outcome:
            raise SystemExit(f"{task.id}: {outcome['error']}")
        found.append((outcome["begun"], outcome["ended"], outcome["spent"]))
        if each is not None:
            each(count)
    return found


def throughput(rounds: int, runs: int, cards: bool) -> None:
    """Runs a minute on one host and on two, in turns."""
    todo = tasks(runs, ON_CARD_ITERATIONS, **ON_CARD) if cards else tasks(runs, ITERATIONS, **SMALL)
    gpus = 1.0 if cards else None
    rates: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for hosts in (1, 2) if turn % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)

                def body(url: str, metrics: Sequence[str], threads: int, scratch: Path | None) -> Together:
                    return Together(StoredWorker(url, metrics, threads, scratch), hosts, root)  # noqa: B023  within the turn

                busy = Others()
                found = spans(RayExecutor(hosts=hosts, gpus=gpus, make_body=body), todo, root)
            seconds = max(ended for _, ended, _ in found) - min(begun for begun, _, _ in found)
            rates[hosts].append(60 * runs / seconds)
            spent[hosts] += [each for _, _, each in found]
            print(f"{hosts} host(s): {rates[hosts][-1]:.1f} runs a minute; load {os.getloadavg()[0]:.1f}", busy.end(), flush=True)
    one, two = (median(rates[hosts]) for hosts in (1, 2))
    print(f"two hosts against one: {two / one:.2f} times ({two:.1f} against {one:.1f} runs a minute, medians of {rounds})")
    alone, beside = (median(spent[hosts]) for hosts in (1, 2))
    best = f"so {2 * alone / beside:.2f} times on two that nobody else uses"
    print(f"processor time of a run: {alone:.2f} s alone, {beside:.2f} s beside another, {best}")


class Others:
    """The share of the processors that no process of this benchmark uses, while it runs."""

    def __init__(self) -> None:
        self.own, self.shares, self.over = psutil.Process(), [], threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        before, own = sum(busy()), self._own()
        while not self.over.wait(1.0):
            now, mine = sum(busy()), self._own()
            self.shares.append(max(0.0, (now - before) - (mine - own)) / os.cpu_count())  # pyright: ignore
            before, own = now, mine

    def _own(self) -> float:
        total = 0.0
        for process in [self.own, *self.own.children(recursive=True)]:
            try:
                total += sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        return total

    def end(self) -> str:
        self.over.set()
        self.thread.join()
        return f"others had {100 * median(self.shares or [0.0]):.0f} % of the processors"


def busy() -> tuple[float, float]:
    times = psutil.cpu_times()
    return times.user + getattr(times, "nice", 0.0), times.system


def scheduling(runs: int) -> None:
    """What the hosts lose between tasks, and what the driver holds."""
    own, held = psutil.Process(), []

    def each(count: int) -> None:
        if count % max(1, runs // 10) == 0:
            held.append(own.memory_info().rss / 2**20)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def body(url: str, metrics: Sequence[str], threads: int, scratch: Path | None) -> Together:
            return Together(None, SIMULATED_HOSTS, root)

        found = spans(RayExecutor(hosts=SIMULATED_HOSTS, make_body=body), tasks(runs, 1), root, each)
    wall = max(ended for _, ended, _ in found) - min(begun for begun, _, _ in found)
    worked = sum(ended - begun for begun, ended, _ in found)
    overhead = 1 - worked / (wall * SIMULATED_HOSTS)
    each_s = f"{runs} simulated runs of {worked / runs:.3f} s on {SIMULATED_HOSTS} hosts"
    print(f"{each_s}: {wall:.1f} s, overhead {100 * overhead:.2f} %; load {os.getloadavg()[0]:.1f}")
    print("driver:", " ".join(f"{size:.0f}" for size in held), "MB after each tenth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--simulated", type=int, default=1000)
    parser.add_argument("--cards", action="store_true", help="runs on CUDA, a card each, in place of a thread each")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])  # of the hosts
    ray = connect()
    print(f"{os.cpu_count()} processors, Ray {ray.__version__}")
    if options.simulated:
        scheduling(options.simulated)
    if options.rounds:
        throughput(options.rounds, options.runs, options.cards)


if __name__ == "__main__":
    main()
