"""Seconds from Run to the first recognisable object, on this machine: the judge is right in three of four views.

    python benchmarks/first_object.py [--prompts 10] [--iterations 200] [--methods ism tsm] [--seed 0]

A run manager trains, as it does behind the page, its model loaded beforehand. Of every snapshot that it publishes, the
judge is shown front, left, back and right of the last side, in this process and on the same cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dreamerxl  # noqa: F401, I001  before torch: it tells OpenMP how to wait
import numpy as np

from dreamerxl.config import load_preset
from dreamerxl.gaussians.scene import thaw
from dreamerxl.miniature.evaluate import ask, four_views, random_things
from dreamerxl.miniature.judge import load_judge
from dreamerxl.miniature.language import describe
from dreamerxl.runs.manager import RunManager

ENOUGH = 3  # views of four
PATIENCE_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=0, help="length of the runs; 0 keeps the preset's")
    parser.add_argument("--methods", nargs="+", default=["ism", "tsm"])
    parser.add_argument("--seed", type=int, default=0, help="which prompts are drawn")
    arguments = parser.parse_args()
    preset = load_preset("embedded")
    sides = [variant for variant in preset.to_dict()["variants"] if variant["method"] in arguments.methods]
    preset = preset.override({"variants": sides, "iterations": arguments.iterations or preset.iterations})
    judge = load_judge()
    with tempfile.TemporaryDirectory() as folder:
        manager = RunManager(folder, warm=preset)
        time.sleep(20)  # the model is loaded and compiled, as it is before a visitor has typed a prompt
        waits = []
        for thing in random_things(arguments.prompts, arguments.seed):
            seconds, iteration = first_right(manager, judge, preset.override({"prompt": describe(thing)}), thing)
            waits.append(seconds)
            print(f"{describe(thing):<70}{seconds:>7.1f} s{iteration:>6} iterations", flush=True)
        manager.close()
    found = int(np.isfinite(waits).sum())
    print(f"\nmedian {np.median(waits):.1f} s, worst {np.max(waits):.1f} s; {found} of {len(waits)} recognised")


def first_right(manager: RunManager, judge, settings, thing) -> tuple[float, int]:
    """Seconds and iterations until the judge is right; infinite where the run ends before."""
    begun = time.monotonic()
    run, seen = manager.submit(settings), 0
    try:
        while time.monotonic() - begun < PATIENCE_S:
            snapshot = run.view.snapshot
            if snapshot is not None and snapshot.iteration > seen:
                seen, published = snapshot.iteration, time.monotonic() - begun
                views = four_views(thaw(snapshot.sides[-1].splats))
                if sum(ask(judge, thing, settings.prompt, views).right) >= ENOUGH:
                    return published, seen
            elif run.view.ended:
                return float("inf"), seen
            time.sleep(0.05)
        return float("inf"), seen
    finally:
        manager.stop(run.id)
        run.wait(60)


if __name__ == "__main__":
    main()
