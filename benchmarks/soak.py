"""Runs back to back on the real program while visitors watch, and says minute by minute what the program holds on to.

    python benchmarks/soak.py [--minutes 45] [--warm 5] [--watchers 1] [--browser] [--out table.csv]

The program is app.py with the embedded model, in a process of its own that is measured from outside. A visitor presses Run
over HTTP as the page's script does and again when that run has ended; in between they pause, change a slider, look back,
have a film made, stop a run, go and come again under another name. Watchers hold the view's socket and ask for news; with
--browser a Chromium has the page open and draws it, and reloads now and then. What the program holds while it trains and
makes files varies; so each run is followed by a rest until all is made, and the figures of the rests are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import httpx
import psutil
from browser import CHROMIUM, FLAGS
from visitor import Visitor, wait_until

from benchmarks.footprint import Footprint, footprint, largest
from dreamerxl.runs.capture import ALWAYS
from dreamerxl.web.desk import THUMBNAIL

ROOT = Path(__file__).resolve().parent.parent
THINGS = ("a red duck", "a wooden chair", "a blue rocket", "a mushroom", "a snowman", "a teapot")
ITERATIONS = (20, 80)
SETTLED_S = 4.0  # nothing is trained or made for so long: a rest
RELOAD_S = 120.0  # between two reloads of the browser
MAKES = ("turntable.mp4", "side-by-side.mp4", "growth.mp4", "scene.html")


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the program held at a moment."""

    minute: float
    runs: int  # that have ended so far
    held: Footprint


@contextlib.contextmanager
def program(runs: Path) -> Iterator[tuple[psutil.Process, str]]:
    """app.py in a process of its own and its address; asked to end with the block, and to have ended well."""
    command = [sys.executable, str(ROOT / "app.py"), "--guidance", "embedded", "--device", "cpu", "--port", "0"]
    process = subprocess.Popen([*command, "--runs-dir", str(runs)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = next((line for line in process.stdout if "Open http" in line), "")
        address = (re.search(r"http://\S+", line) or [""])[0]
        wait_until(lambda: answers(address), 120)
        yield psutil.Process(process.pid), address
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        print(f"the program ended with {code}")


def answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}health", trust_env=False).is_success
    return False


@contextlib.contextmanager
def watchers(address: str, count: int) -> Iterator[None]:
    """Processes that do what an open page does and draw nothing, until the block ends."""
    command = [sys.executable, str(ROOT / "benchmarks" / "watching.py"), "--watch", address]
    pages = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
        lost = sum(page.poll() is not None for page in pages)
        if lost:
            print(f"{lost} of the watchers were cut off")
    finally:
        for page in pages:
            page.terminate()
            page.wait()


@contextlib.contextmanager
def drawing(address: str, wanted: bool) -> Iterator[None]:
    """A Chromium with the page open on a thread, until the block ends."""
    over = threading.Event()

    def look() -> None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as starter:
            browser = starter.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page()
            page.goto(address)
            while not over.is_set():
                page.wait_for_timeout(1000 * RELOAD_S / 10)
                if random.random() < 0.1:
                    page.reload()
            browser.close()

    thread = threading.Thread(target=look) if wanted else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join()


class Guest:
    """Presses the buttons of the page: one run after another, each with something done to it or with it."""

    def __init__(self, address: str, runs: Path, chance: random.Random) -> None:
        self.client = httpx.Client(base_url=address, timeout=120, trust_env=False)
        self.runs, self.chance = runs, chance
        self.done = 0

    def one_run(self) -> None:
        """A run from Run to rest, by a visitor who is a new one each time."""
        visitor, chance = Visitor(self.client), self.chance
        visitor.fire("arrive", "load")
        visitor.fill(Prompt=chance.choice(THINGS), Seed=self.done, Iterations=chance.randint(*ITERATIONS))
        told = visitor.press("run")
        if told:
            raise SystemExit(f"Run was answered with: {told}")
        run_id = wait_until(lambda: (self.health()["run"] or {}).get("id"), 60)
        self.disturb(visitor, chance.choice(["", "", "pause", "change", "stop"]))
        wait_until(lambda: self.health()["run"] is None or look(visitor), 600)
        self.done += 1
        status = json.loads((self.runs / run_id / "run.json").read_text())["status"]
        if status not in ("done", "stopped"):
            raise SystemExit(f"The run {run_id} is {status}.")
        visitor.fire("files", data={"name": chance.choice(MAKES)})
        visitor.fire("search", "change")
        visitor.fire("runs", data={"name": f"open:{chance.choice(sorted(self.runs.glob('*/run.json'))).parent.name}"})
        self.rest(self.runs / run_id / "captures")

    def disturb(self, visitor: Visitor, how: str) -> None:
        """Do something to the run in its course."""
        wait_until(lambda: (self.health()["run"] or {"iteration": 99})["iteration"] >= 12, 120)
        if how == "change":
            visitor.fill(Guidance=self.chance.randint(5, 20))
            visitor.press("apply")
        elif how:
            visitor.press(how)
        if how == "pause":
            time.sleep(1.5)
            visitor.press("pause")

    def rest(self, captures: Path) -> None:
        """Wait until nothing is trained, what is made of every run is there, no file is half written, and none has been written
        for a while: a film reaches the disk in bursts."""
        quiet_since, before = time.monotonic(), {}
        while time.monotonic() - quiet_since < SETTLED_S:
            written = {}
            for path in self.runs.rglob("*.*"):
                with contextlib.suppress(FileNotFoundError):  # it just got its name
                    written[path] = path.stat().st_mtime_ns
            made = all(captures / name in written for name in (*ALWAYS, THUMBNAIL))
            half = any(path.name.startswith(".") for path in written)
            if written != before or half or not made or self.health()["run"] is not None:
                quiet_since, before = time.monotonic(), written
            time.sleep(0.5)

    def health(self) -> dict[str, Any]:
        return self.client.get("health").raise_for_status().json()


def look(visitor: Visitor) -> bool:
    """Ask for the page's news, as its timer does; it is no reason to wait no longer."""
    time.sleep(1.0)
    visitor.look()
    return False


def soak(minutes: float, warm: float, pages: int, browser: bool, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples of every minute, and of the rests after the runs."""
    minutely: list[Sample] = []
    rests: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder, program(Path(folder)) as (process, address):
        guest = Guest(address, Path(folder), random.Random(seed))
        begun, over = time.monotonic(), threading.Event()

        def sample() -> Sample:
            return Sample((time.monotonic() - begun) / 60, guest.done, footprint(process))

        def every_minute() -> None:
            while not over.wait(60 - (time.monotonic() - begun) % 60):
                minutely.append(sample())
                print(f"{minutely[-1].minute:5.1f} min {guest.done:4} runs {minutely[-1].held}", flush=True)

        clock = threading.Thread(target=every_minute)
        clock.start()
        try:
            with watchers(address, pages), drawing(address, browser):
                while time.monotonic() - begun < 60 * minutes:
                    guest.one_run()
                    rests.append(sample())
        finally:
            over.set()
            clock.join()
        print_rests([rest for rest in rests if rest.minute >= warm] or rests[-1:])
    return minutely, rests


def print_rests(rests: list[Sample]) -> None:
    """What the program held between runs, at first, at last and at most."""
    first, most = rests[0].held, largest([rest.held for rest in rests])
    print(f"at rest, after run {rests[0].runs:4}  {first}\nat rest, after run {rests[-1].runs:4}  {rests[-1].held}")
    print(f"at most, of {len(rests):4} rests  {most}")
    grown = {"memory": most.resident_mb - first.resident_mb, "threads": most.threads - first.threads}
    grown |= {"files": most.files - first.files, "sockets": most.sockets - first.sockets}
    print("grown since the first by at most: " + ", ".join(f"{name} {by:+.0f}" for name, by in grown.items()))


def write_table(path: Path, samples: list[Sample]) -> None:
    """A row for every sample."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [{"minute": round(s.minute, 2), "runs": s.runs, **dataclasses.asdict(s.held)} for s in samples]
        table = csv.DictWriter(file, rows[0] if rows else ["minute"])
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--warm", type=float, default=5.0, help="minutes whose rests are not compared")
    parser.add_argument("--watchers", type=int, default=1, help="pages that are followed without being drawn")
    parser.add_argument("--browser", action="store_true", help="have a Chromium draw the page, too")
    parser.add_argument("--out", type=Path, help="where the table of all samples is to go, as CSV")
    parser.add_argument("--seed", type=int, default=0, help="of what the visitor does")
    arguments = parser.parse_args()
    minutely, rests = soak(arguments.minutes, arguments.warm, arguments.watchers, arguments.browser, arguments.seed)
    if arguments.out:
        write_table(arguments.out, sorted([*minutely, *rests], key=lambda sample: sample.minute))


if __name__ == "__main__":
    main()
