"""Time of the CPU rasterizer: forward and backward, colour, expected depth and alpha, one camera by default.

    python benchmarks/rasterizer.py [--cameras C] [--threads T] [--repeats R] [--against FILE.py:NAME]

Plain torch (every pixel against every Gaussian) stands beside it where that fits in memory. ``--against`` names a
function with the arguments of gsplat.rasterization and times it in turn with ours, which is what makes a ratio fair
on a busy machine: medians of interleaved calls.
"""

from __future__ import annotations

import argparse
import importlib.util
import operator
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import splatting_reference as reference  # noqa: E402

from dreamerxl.gaussians.rasterize import rasterize  # noqa: E402
from dreamerxl.gaussians.rasterize_cpu import warm_up  # noqa: E402
from dreamerxl.gaussians.scene import Splats  # noqa: E402

COUNTS, SIZES = (1_000, 5_000, 20_000), (128, 256)
BRUTE_FORCE_LIMIT = 20_000_000  # pixels x Gaussians; seconds and gigabytes beyond

Draw = Callable[..., tuple[Tensor, ...]]  # scene tensors, viewmats, Ks, size, background -> pictures


def ours(scene: list[Tensor], viewmats: Tensor, Ks: Tensor, size: int, background: Tensor) -> tuple[Tensor, ...]:
    render = rasterize(Splats(*scene), viewmats, Ks, size, size, background)
    return render.rgb, render.depth, render.alpha


def plain_torch(scene: list[Tensor], viewmats: Tensor, Ks: Tensor, size: int, background: Tensor) -> tuple[Tensor, ...]:
    picture = reference.draw(*scene, viewmats, Ks, size, size, background)
    return picture.rgb, picture.depth, picture.alpha


def like_gsplat(function: Any) -> Draw:
    def draw(scene: list[Tensor], viewmats: Tensor, Ks: Tensor, size: int, background: Tensor) -> tuple[Tensor, ...]:
        return function(*scene, viewmats, Ks, size, size, backgrounds=background, render_mode="RGB+ED")[:2]

    return draw


def load(target: str) -> Draw:
    """The function NAME (dots allowed) of FILE.py, given as FILE.py:NAME."""
    file, _, name = target.partition(":")
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None or not name:
        raise SystemExit(f"--against is {target!r}; FILE.py:NAME is accepted")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return like_gsplat(operator.attrgetter(name)(module))


def measure(draws: dict[str, Draw], count: int, size: int, cameras: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of forward and backward of every function, called in turn."""
    scene = [t.float() for t in reference.random_scene(count, 0)]
    scene[2] = scene[2] * 0.6
    viewmats, Ks = (t.float() for t in reference.orbit(cameras, size, size))
    background = torch.ones(cameras, 3)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in draws}
    warm = min(2, repeats // 3)
    for repeat in range(repeats + warm):
        for name, draw in draws.items():
            leaves = [t.clone().requires_grad_(True) for t in scene]
            start = time.perf_counter()
            pictures = draw(leaves, viewmats, Ks, size, background)
            middle = time.perf_counter()
            pulls = [torch.ones_like(p) for p in pictures]
            ready = time.perf_counter()
            torch.autograd.backward(pictures, pulls)
            end = time.perf_counter()
            if repeat >= warm:
                times[name][0].append(1e3 * (middle - start))
                times[name][1].append(1e3 * (end - ready))
    return {name: (statistics.median(forward), statistics.median(backward)) for name, (forward, backward) in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--against", metavar="FILE.py:NAME", help="another function with gsplat.rasterization's arguments")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    draws: dict[str, Draw] = {"dreamerxl": ours}
    if arguments.against:
        draws[arguments.against.rpartition(":")[2]] = load(arguments.against)
    start = time.perf_counter()
    warm_up()
    print(f"warm-up {time.perf_counter() - start:.2f} s (compiles once, then comes from the disk cache)")
    print(f"{arguments.threads} threads, {arguments.cameras} cameras, medians of {arguments.repeats}, milliseconds")
    print(f"{'Gaussians':>9} {'pixels':>7}  {'function':<24} {'forward':>8} {'backward':>8} {'together':>8} {'/ dreamerxl':>11}")
    for count in COUNTS:
        for size in SIZES:
            times = measure(draws, count, size, arguments.cameras, arguments.repeats)
            if count * size * size * arguments.cameras <= BRUTE_FORCE_LIMIT:
                times |= measure({"plain torch": plain_torch}, count, size, arguments.cameras, 2)
            total = sum(times["dreamerxl"])
            for name, (forward, backward) in times.items():
                row = f"{forward:8.2f} {backward:8.2f} {forward + backward:8.2f} {(forward + backward) / total:11.2f}"
                print(f"{count:9,} {size:>3}x{size:<3}  {name:<24} {row}", flush=True)


if __name__ == "__main__":
    main()
