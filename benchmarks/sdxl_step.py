"""What SDXL guidance at 1024 px costs on this card, stage by stage, beside the released code's way in the same run.

    python benchmarks/sdxl_step.py [--only unet vae step ...] [--seconds 600] [--tiny]

Weights are random and of full size; nothing is downloaded. Milliseconds are medians, or means over draws of t where the
number of evaluations depends on t. Shares are of the bf16 matrix peak that the same run measures. ``--tiny`` runs the
whole script on a CPU in a minute, at widths whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dreamerxl  # noqa: F401, I001  before torch: it tells OpenMP how to wait
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.random_sdxl import RandomGuidance, random_guidance, random_unet, random_vae
from benchmarks.released_step import released_step
from dreamerxl.config import Settings, Variant
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.timesteps import Steps, plan_steps
from dreamerxl.errors import NumericalError
from dreamerxl.gaussians.export import write_ply
from dreamerxl.gaussians.scene import freeze
from dreamerxl.guidance.conditioning import Conditioning
from dreamerxl.guidance.denoiser import Denoiser, advance_together
from dreamerxl.training.draw import draw
from dreamerxl.training.trainer import Trainer

GIB = 2**30
TIMESTEPS = (50, 110, 170, 230, 290, 350, 410, 470)  # evenly over the released code's 20..500
RELEASED = {"max_inversion_steps": 5, "inversion_start": "noised", "mu_rule": "released"}
TSM, ISM = (Variant(method=method, **RELEASED) for method in ("tsm", "ism"))  # type: ignore[arg-type]


@dataclass
class Bench:
    """What the sections share: the card, the model, the draws, and the lines of the table at the end."""

    device: torch.device
    tiny: bool
    guidance: RandomGuidance
    settings: Settings
    peak: float  # TFLOP/s
    unet_flops: float  # of one row
    vae_flops: float  # of one view's encoding
    found: dict[str, float] = field(default_factory=dict)

    @property
    def views(self) -> int:
        return self.settings.views.batch

    def images(self, views: int, seed: int = 0) -> Tensor:
        side = self.guidance.resolution
        return torch.rand(views, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def noise(self, seed: int = 1) -> Tensor:
        shape = (self.views, self.guidance.latent_channels, self.guidance.latent_size, self.guidance.latent_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def milliseconds(self, run: Callable[[], object], repeat: int = 7, warm: int = 2) -> float:
        """Median of several runs, each timed from an idle card to an idle card."""
        for _ in range(warm):
            run()
        return sorted(self.once(run) for _ in range(repeat))[repeat // 2]

    def once(self, run: Callable[[], object]) -> float:
        self.wait()
        begun = time.perf_counter()
        run()
        self.wait()
        return (time.perf_counter() - begun) * 1e3

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def memory(self, reset: bool = False) -> str:
        """Peak since the last reset, as PyTorch allocated it and as the card was asked for it."""
        if self.device.type != "cuda":
            return ""
        text = f"{torch.cuda.max_memory_allocated() / GIB:.1f} GiB used, {torch.cuda.max_memory_reserved() / GIB:.1f} GiB held"
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS), help="sections to run, in that order"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further section after this many")
    parser.add_argument("--tiny", action="store_true", help="tiny widths on a CPU, to try the script")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    bench = make_bench(arguments.tiny)
    for name in arguments.only:
        now = time.perf_counter() - begun
        if now > arguments.seconds:
            say(f"{name}: left out after {now:.0f} s")
            continue
        say(f"\n== {name} (at {now:.0f} s)")
        try:
            SECTIONS[name](bench)
        except Exception:  # the other sections still tell something
            traceback.print_exc()
    table(bench)


def make_bench(tiny: bool) -> Bench:
    device = torch.device("cpu" if tiny else "cuda")
    dtype = torch.float32 if tiny else torch.bfloat16
    guidance = random_guidance(device, dtype, tiny)
    small = {"views.resolution": guidance.resolution, "initialization.count": 500 if tiny else 100_000}
    released = {"timesteps.rule": "released", "timesteps.anneal_iterations": 0, "losses.depth_ratio": 0.2}
    settings = Settings(variants=(TSM,), prompt="a DSLR photo of a bagel", iterations=50).override({**small, **released})
    bench = Bench(device, tiny, guidance, settings, matrix_peak(device, dtype, 256 if tiny else 8192), 0.0, 0.0)
    bench.unet_flops, bench.vae_flops = count_flops(bench)
    name = "a CPU" if tiny else torch.cuda.get_device_name()
    say(f"{name}, PyTorch {torch.__version__}, {bench.views} views of {guidance.resolution} px, {dtype}")
    say(
        f"matrix peak {bench.peak:.0f} TFLOP/s; UNet {bench.unet_flops:.2f} TFLOP a row; VAE {bench.vae_flops:.2f} a view encoded"
    )
    return bench


def count_flops(bench: Bench) -> tuple[float, float]:
    """TFLOP of one UNet row and of one view through the encoder, counted by PyTorch on the plain modules."""
    guidance, rows = bench.guidance, prompts(bench, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        guidance._evaluate(bench.noise()[:1], torch.full((1,), 500, device=bench.device), *rows)
    unet = counter.get_total_flops() / 1e12
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        guidance.vae.encode(bench.images(1).to(guidance.vae.dtype))
    return unet, counter.get_total_flops() / 1e12


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """TFLOP/s of a large matrix product, the median of many."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    spent = []
    for _ in range(30):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(5):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent.append((time.perf_counter() - begun) / 5)
    return 2 * size**3 / sorted(spent)[15] / 1e12


def prompts(bench: Bench, rows: int) -> tuple[Tensor, ...]:
    """hidden, pooled and sizes of that many rows."""
    given = bench.guidance.embed([""]).repeated(rows)
    return tuple(part.contiguous() for part in (given.hidden, given.pooled, given.time_ids) if part is not None)


# ---------------------------------------------------------------------------------------------------------- sections


def unet(bench: Bench) -> None:
    """One network call at the row counts of a run: 4 and 12 for TSM, 8 and 20 for a pair; and 1."""
    for rows in (12, 1, 4, 8, 20):
        conditioning = Conditioning(*prompts(bench, rows))
        x = bench.noise().repeat(-(-rows // bench.views), 1, 1, 1)[:rows]
        t = torch.linspace(20, 900, rows, device=bench.device).long()
        begun = time.perf_counter()
        bench.guidance.predict(x, t, conditioning)
        bench.wait()
        first = time.perf_counter() - begun
        ms = bench.milliseconds(lambda x=x, t=t, c=conditioning: bench.guidance.predict(x, t, c))
        speed = bench.unet_flops * rows / ms * 1e3
        bench.found[f"unet {rows}"], bench.found[f"unet share {rows}"] = ms, speed / bench.peak
        share = f"{speed / bench.peak:.1%} of the peak"
        say(f"UNet, {rows:2} rows: {ms:7.1f} ms, {speed:4.0f} TFLOP/s, {share}; first call {first:.1f} s")


def vae(bench: Bench) -> None:
    """Encode the views and carry a gradient back to them; once with every view held, once in turns."""
    pixels, gradient = bench.images(bench.views).requires_grad_(), bench.noise()

    def run() -> None:
        latents = bench.guidance.encode(pixels)
        torch.autograd.grad(latents, pixels, gradient)

    for at_once in (None, 1):
        bench.guidance.encode_at_once = at_once
        bench.memory(reset=True)
        ms = bench.milliseconds(run, 5)
        if at_once is None:
            bench.found["vae"] = ms
        speed = 2 * bench.vae_flops * bench.views / ms * 1e3
        how = "all views at once" if at_once is None else "view by view"
        share = f"{speed / bench.peak:.1%} of the peak"
        say(f"VAE encode + backward, {how}: {ms:.1f} ms, {speed:.0f} TFLOP/s, {share}; {bench.memory()}")
    bench.guidance.encode_at_once = None


def guided(bench: Bench, images: Tensor, plans: Sequence[Steps], variants: Sequence[Variant], noise: Tensor) -> Tensor:
    """Gradient of the loss for the images of all sides, as the trainer takes it."""
    guidance = bench.guidance
    pixels = images.detach().requires_grad_()
    latents = guidance.encode(pixels)
    views = guidance.embed(["front"]).repeated(bench.views)
    denoiser = Denoiser(guidance, views, guidance.embed([""]), None, [variant.guidance_scale for variant in variants])
    with torch.no_grad():
        parts = latents.chunk(len(variants))
        methods = [
            METHODS[variant.method](x_0, plan, noise, guidance.schedule, variant)
            for variant, x_0, plan in zip(variants, parts, plans, strict=True)
        ]
        scores = advance_together(methods, denoiser.answer)
    return torch.autograd.grad(latents, pixels, torch.cat([score.gradient for score in scores]))[0]


def plans_for(bench: Bench, t: int, variants: Sequence[Variant]) -> list[Steps]:
    return [plan_steps(t, variant, bench.settings.timesteps, 0) for variant in variants]


def rounds(bench: Bench, variants: Sequence[Variant]) -> float:
    """Mean milliseconds of the guidance of one iteration over draws of t."""
    images, noise = bench.images(bench.views * len(variants)), bench.noise()
    spent = []
    for t in (TIMESTEPS[0], TIMESTEPS[-1], *TIMESTEPS):
        plans = plans_for(bench, t, variants)
        spent.append(bench.once(lambda plans=plans: guided(bench, images, plans, variants, noise)))
    return sum(spent[2:]) / len(TIMESTEPS)


def step(bench: Bench) -> None:
    """The guidance of one TSM iteration: encode, trajectories, backward to the images."""
    bench.memory(reset=True)
    bench.found["step"] = rounds(bench, [TSM])
    say(f"TSM guidance step: {bench.found['step']:.0f} ms, mean over t in {TIMESTEPS}; {bench.memory()}")


def baseline(bench: Bench) -> None:
    """The same step as the released code takes it."""
    half = torch.float32 if bench.tiny else torch.float16
    plain_unet, plain_vae = random_unet(bench.device, half, bench.tiny), random_vae(bench.device, torch.float32, bench.tiny)
    images, noise = bench.images(bench.views), bench.noise()
    views, negative = (bench.guidance.embed([text]).repeated(bench.views) for text in ("front", ""))
    spent = []
    chosen, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # as PyTorch comes
    bench.memory(reset=True)
    for t in (TIMESTEPS[-1], *TIMESTEPS):
        (plan,) = plans_for(bench, t, [TSM])
        given = (images, noise, plan, views, negative, TSM.guidance_scale)
        spent.append(bench.once(lambda given=given: released_step(plain_unet, plain_vae, bench.guidance.schedule, *given)))
    torch.backends.cudnn.benchmark = chosen
    bench.found["baseline"] = sum(spent[1:]) / len(TIMESTEPS)
    say(f"the released code's step: {bench.found['baseline']:.0f} ms; {bench.memory(reset=True)}")
    if "step" in bench.found:
        say(f"TSM step against it: {bench.found['baseline'] / bench.found['step']:.2f} times as fast")


def pair(bench: Bench) -> None:
    """ISM and TSM together against TSM alone, guidance only."""
    single = bench.found.get("step") or rounds(bench, [TSM])
    bench.memory(reset=True)
    both = rounds(bench, [ISM, TSM])
    bench.found["pair guidance"] = both / single
    say(f"guidance of a pair: {both:.0f} ms, {both / single:.2f} of a single one's; {bench.memory()}")


def loop(bench: Bench) -> None:
    """Whole iterations (render, guidance, clip, backward, optimiser, densification) against their guidance alone."""
    count = 3 if bench.tiny else 12
    bench.memory(reset=True)
    single, timing = iterations(bench, [TSM], count)
    bench.found["memory"] = torch.cuda.max_memory_reserved() / GIB if bench.device.type == "cuda" else 0.0
    say(f"whole iteration, TSM: {single:.0f} ms; {bench.memory(reset=True)}")
    say("   " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in timing.items()) + " ms")
    alone = alone_for(bench, count)
    bench.found["loop"] = single / alone
    say(f"guidance of the same iterations alone: {alone:.0f} ms; the loop takes {single / alone:.3f} of it")
    both, timing = iterations(bench, [ISM, TSM], count)
    bench.found["pair"] = both / single
    say(f"whole iteration, ISM and TSM: {both:.0f} ms, {both / single:.2f} of the single one; {bench.memory(reset=True)}")
    say("   " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in timing.items()) + " ms")


def iterations(bench: Bench, variants: Sequence[Variant], count: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of an iteration of the trainer, and of its stages. The first ones are not counted."""
    trainer = Trainer(bench.settings.override({"variants": [vars(variant) for variant in variants]}), bench.guidance)
    for _ in range(2):
        trainer.step()
    trainer.iteration, reports = 0, []

    def run() -> None:
        for _ in range(count):
            reports.append(trainer.step())

    spent = bench.once(run) / count
    stages = {stage: sum(report.timing_ms[stage] for report in reports) / count for stage in reports[0].timing_ms}
    return spent, stages


def alone_for(bench: Bench, count: int) -> float:
    guidance, images = bench.guidance, bench.images(bench.views)
    shape = (guidance.latent_channels, guidance.latent_size, guidance.latent_size)
    draws = [draw(bench.settings, i, len(guidance.schedule), shape, bench.device) for i in range(count)]

    def run() -> None:
        for drawn in draws:
            guided(bench, images, plans_for(bench, drawn.t, [TSM]), [TSM], drawn.noise)

    run()
    return bench.once(run) / count


def cards(bench: Bench) -> None:
    """Whole iterations with every card of the machine against the first alone: a pair, and a single run's views."""
    count, some = (2, 2) if bench.tiny else (torch.cuda.device_count(), 12)
    if count < 2:
        say("one card only")
        return
    guidance = random_guidance(bench.device, bench.guidance.dtype, bench.tiny)
    places = [bench.device if bench.tiny else torch.device("cuda", index) for index in range(1, count)]
    guidance.others = tuple(guidance.copy_on(place) for place in places)
    shared = replace(bench, guidance=guidance)
    for name, variants in (("pair", [ISM, TSM]), ("single run", [TSM])):
        one, _ = iterations(bench, variants, some)
        many, timing = iterations(shared, variants, some)
        bench.found[f"cards {name}"] = one / many
        say(f"{name}: {one:.0f} ms on one card, {many:.0f} ms on {count}: {one / many:.2f} times as fast")
        say("   " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in timing.items()) + " ms")
        say(f"   gradients of both ways: {apart(bench, shared, variants):.2%} of the norm apart")


def apart(bench: Bench, shared: Bench, variants: Sequence[Variant]) -> float:
    """How far the image gradients of the two ways lie apart: other numbers of rows are rounded otherwise."""
    images, noise = bench.images(bench.views * len(variants)), bench.noise()
    plans = plans_for(bench, TIMESTEPS[3], variants)
    ours, theirs = (guided(each, images, plans, variants, noise) for each in (shared, bench))
    return ((ours - theirs).norm() / theirs.norm()).item()


def long(bench: Bench) -> None:
    """Fifty iterations: everything stays finite, the scene grows, and it can be written; an infinite pixel is caught."""
    count = 6 if bench.tiny else 50
    density = {"start": 4, "every": 5, "grad_threshold": 1e-7, "stop": 1000}
    settings = bench.settings.override({f"densification.{name}": value for name, value in density.items()})
    trainer = Trainer(settings, bench.guidance)
    before = len(trainer.sides[0].params["means"])
    for _ in range(count):
        report = trainer.step()
    side = trainer.sides[0]
    finite = all(bool(param.isfinite().all()) for param in side.params.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.ply"
        write_ply(path, freeze(side.params))
        size = path.stat().st_size
    grown = len(side.params["means"])
    say(f"{count} iterations: finite {finite}, {before:,} Gaussians became {grown:,}, the scene is {size / 1e6:.1f} MB on disk")
    say(f"   last gradient {report.sides[0].grad_norm:.3g}, clipped {report.sides[0].clipped_norm:.3g}")
    broken = Broken(trainer)
    say(f"an infinite pixel in the VAE's gradient: {broken.sentence()}; scene unchanged: {broken.unchanged()}")
    bench.found["long"] = float(finite and grown > before and size > 0 and broken.unchanged())


class Broken:
    """One more step of a trainer, with one number of the image gradient made infinite."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.before = [{name: param.detach().clone() for name, param in side.params.items()} for side in trainer.sides]

    def sentence(self) -> str:
        encode = self.trainer.guidance.encode

        def encode_with_infinite_gradient(images: Tensor) -> Tensor:
            images.register_hook(self._spoil)
            return encode(images)

        self.trainer.guidance.encode = encode_with_infinite_gradient  # type: ignore[method-assign]
        try:
            self.trainer.step()
        except NumericalError as error:
            return str(error)
        finally:
            self.trainer.guidance.encode = encode  # type: ignore[method-assign]
        return "not noticed"

    def unchanged(self) -> bool:
        pairs = zip(self.trainer.sides, self.before, strict=True)
        return all(torch.equal(side.params[name], value) for side, kept in pairs for name, value in kept.items())

    @staticmethod
    def _spoil(gradient: Tensor) -> Tensor:
        spoiled = gradient.clone()
        spoiled[0, 1, 5, 7] = torch.inf
        return spoiled


def small(bench: Bench) -> None:
    """A pair on a card of 16 GB: its profile, and no more memory than that."""
    from dreamerxl.training.memory import PROFILES

    profile = PROFILES[-1]
    bench.guidance.encode_at_once = profile.encode_at_once
    if bench.device.type == "cuda":
        bench.guidance._network.recordings.clear()  # type: ignore[attr-defined]
        gc.collect()
        bench.memory(reset=True)
        torch.cuda.set_per_process_memory_fraction(15 * GIB / torch.cuda.get_device_properties(0).total_memory)
    try:
        trainer = Trainer(bench.settings.override({"variants": [vars(ISM), vars(TSM)]}), bench.guidance, profile.max_rows)
        trainer.step()
        ms = bench.once(trainer.step)
        say(f"a pair in 15 GiB: {ms:.0f} ms an iteration; {bench.memory()}")
        bench.found["small"] = 1.0
    finally:
        bench.guidance.encode_at_once = None
        if bench.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "unet": unet,
    "vae": vae,
    "step": step,
    "baseline": baseline,
    "pair": pair,
    "loop": loop,
    "cards": cards,
    "long": long,
    "small": small,
}


def table(bench: Bench) -> None:
    """What was asked for and what was found."""
    found = bench.found
    speedup = found["baseline"] / found["step"] if {"baseline", "step"} <= set(found) else None
    lines: list[tuple[str, float | None, float, float, bool, str]] = [
        ("TSM step against the baseline, times as fast", speedup, 2.0, 3.0, True, ".2f"),
        ("UNet share of the matrix peak, 12 rows, %", percent(found.get("unet share 12")), 52, 60, True, ".1f"),
        ("VAE encode + backward, 4 views, ms", found.get("vae"), 160, 110, False, ".1f"),
        ("UNet, 1 row, ms", found.get("unet 1"), 28, 20, False, ".1f"),
        ("pair against one TSM run, guidance", found.get("pair guidance"), 1.8, 1.6, False, ".2f"),
        ("pair against one TSM run, whole iteration", found.get("pair"), 1.8, 1.6, False, ".2f"),
        ("peak memory of a single run, GiB", found.get("memory"), 40, 24, False, ".1f"),
        ("whole iteration over guidance alone", found.get("loop"), 1.10, 1.05, False, ".3f"),
        ("pair on every card against one, times as fast", found.get("cards pair"), 1.7, 2.0, True, ".2f"),
        ("single run on every card against one", found.get("cards single run"), 1.7, 2.0, True, ".2f"),
    ]
    say(f"\n{'what':<48}{'found':>9}{'bar':>8}{'goal':>8}")
    for what, value, bar, goal, more, shape in lines:
        if value is None:
            say(f"{what:<48}{'-':>9}{bar:>8g}{goal:>8g}")
            continue
        reached = (
            "goal"
            if (value >= goal if more else value <= goal)
            else "bar"
            if (value >= bar if more else value <= bar)
            else "MISSED"
        )
        say(f"{what:<48}{format(value, shape):>9}{bar:>8g}{goal:>8g}  {reached}")
    if "small" in found:
        say(f"{'a pair runs in the memory of a 16 GB card':<48}{'yes':>9}")
    if "long" in found:
        say(f"{'50 iterations finite, grown, written, guarded':<48}{'yes' if found['long'] else 'NO':>9}")


def percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def say(text: Any) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
