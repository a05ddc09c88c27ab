"""What an iteration of a pair (ISM, TSM) costs on this machine, stage by stage.

    python benchmarks/pair_step.py [--random] [--steps 40] [--iterations 400] [--threads 2] [--preset embedded]

Beside the UNet's throughput stands the machine's fp32 matrix peak, measured before and after in the same run.
``--random`` takes random weights of the embedded model's architecture. ``--iterations`` runs that many and times them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dreamerxl  # noqa: F401, I001  before torch: it tells OpenMP how to wait
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamerxl.config import Settings, load_preset
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import EMBEDDED, load_guidance
from dreamerxl.training.trainer import Trainer

STAGES = ("render", "encode", "predict", "backward", "update")
FULL = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", action="store_true", help="random weights of the embedded architecture")
    parser.add_argument("--steps", type=int, default=40, help="iterations measured for the table, spread over the run")
    parser.add_argument("--iterations", type=int, default=0, help="also run this many iterations from the start and time them")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 keeps its own choice")
    parser.add_argument("--preset", default="embedded", help="settings of the run")
    parser.add_argument("--prompt", default="")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = load_preset(arguments.preset)
    settings = settings.override({"prompt": arguments.prompt} if arguments.prompt else {})
    random = arguments.random or not (EMBEDDED / "model_index.json").is_file()
    guidance = random_guidance() if random else load_guidance("embedded", "cpu")
    print(f"{'random' if random else 'trained'} weights, {torch.get_num_threads()} threads, preset {arguments.preset}")
    print(f"{settings.initialization.count:,} Gaussians, {settings.views.batch} views of {settings.views.resolution} px")

    flops = flops_per_row(guidance)
    peak = matrix_peak()
    table(settings, guidance, arguments.steps, flops, peak)
    if arguments.iterations:
        whole_run(settings, guidance, arguments.iterations, flops)


def table(settings: Settings, guidance: Guidance, steps: int, flops: float, peak: float) -> None:
    """Milliseconds of each stage, over iterations that are spread evenly over the run."""
    trainer = Trainer(settings, guidance)
    trainer.step()  # compiles and warms up
    spent, rows, calls = defaultdict(float), 0, 0
    processor = time.process_time()
    for step in range(steps):
        trainer.iteration = step * settings.iterations // steps
        report = trainer.step()
        rows, calls = rows + report.evaluations, calls + report.calls
        for stage, milliseconds in report.timing_ms.items():
            spent[stage] += milliseconds
    processor = (time.process_time() - processor) / steps * 1e3
    peak = max(peak, matrix_peak())
    total = sum(spent.values())
    print(f"\n{'stage':<10}{'ms':>8}{'share':>8}")
    for stage in STAGES:
        print(f"{stage:<10}{spent[stage] / steps:>8.1f}{spent[stage] / total:>8.0%}")
    print(f"{'iteration':<10}{total / steps:>8.1f}    ({steps} measured; {total / steps * FULL / 1e3:.0f} s for {FULL})")
    print(f"processor time: {processor:.0f} ms an iteration over all threads, which is what counts on a busy machine")
    speed = rows * flops / (spent["predict"] / 1e3) / 1e9
    print(f"\nUNet: {flops / 1e9:.2f} GFLOP a row, {rows / steps:.1f} rows in {calls / steps:.1f} calls an iteration")
    print(f"predict stage: {speed:.0f} GFLOP/s; fp32 matrix peak of this machine: {peak:.0f} GFLOP/s ({speed / peak:.0%})")


def whole_run(settings: Settings, guidance: Guidance, iterations: int, flops: float) -> None:
    """Wall time of a run of that length, the trainer's own construction included."""
    begun, rows, predicting = time.perf_counter(), 0, 0.0
    trainer = Trainer(settings.override({"iterations": iterations}), guidance)
    for _ in range(iterations):
        report = trainer.step()
        rows, predicting = rows + report.evaluations, predicting + report.timing_ms["predict"] / 1e3
    seconds = time.perf_counter() - begun
    print(f"\n{iterations} iterations of the pair: {seconds:.1f} s ({seconds / iterations * 1e3:.0f} ms each)")
    print(f"UNet over the whole run: {rows * flops / predicting / 1e9:.0f} GFLOP/s")


def flops_per_row(guidance: Guidance) -> float:
    """Floating point operations of one UNet evaluation, counted by PyTorch."""
    shape = (1, guidance.latent_channels, guidance.latent_size, guidance.latent_size)
    with FlopCounterMode(display=False) as counter:
        guidance.predict(torch.zeros(shape), torch.zeros(1, dtype=torch.long), guidance.embed([""]))
    return float(counter.get_total_flops())


def matrix_peak() -> float:
    """The best of several fp32 matrix products, in GFLOP/s."""
    best = 0.0
    for size in (512, 1024, 1536, 2048):
        a, b = torch.ones(size, size), torch.ones(size, size)
        for _ in range(4):
            begun = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return best


def random_guidance() -> Guidance:
    """The embedded model's architecture with random weights and its own tokenizer."""
    from dreamerxl.diffusion.schedule import from_diffusers
    from dreamerxl.miniature.architecture import make_networks, make_scheduler

    networks = make_networks(seed=0)
    return Guidance(
        label="random weights",
        unet=networks.unet,
        vae=networks.vae,
        tokenizers=[networks.tokenizer],
        text_encoders=[networks.text_encoder],
        schedule=from_diffusers(make_scheduler()),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


if __name__ == "__main__":
    main()
