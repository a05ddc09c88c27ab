"""``python -m dreamerxl.miniature``: train the embedded model again, look at its data, sample from it, ask the judge."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamerxl.cameras import cameras_at
from dreamerxl.config import PRESETS, load_preset, preset_names
from dreamerxl.miniature.architecture import WEIGHTS
from dreamerxl.miniature.data import SIZE
from dreamerxl.miniature.language import PROMPTING, VIEWS, describe
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.render import render
from dreamerxl.miniature.train import STAGES, Limits, Recipe, train
from dreamerxl.miniature.world import COLORS, PLACES, Thing, build_scene

THUMBNAIL_CAMERA = (32.0, 18.0, 4.0, 36.0)  # azimuth and elevation in degrees, distance, field of view in degrees
SIDES = ((0, 15), (90, 15), (180, 15), (270, 15), (30, 60))  # azimuth and elevation of VIEWS, in degrees


def main() -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(prog="python -m dreamerxl.miniature", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="train on a CUDA card and write a diffusers folder and a judge")
    learn.add_argument("--out", type=Path, required=True)
    learn.add_argument("--start", type=Path, help="folder to continue from")
    learn.add_argument(
        "--stages", nargs="+", choices=(*STAGES, "decoder"), default=STAGES, help="what to train; the rest is kept"
    )
    learn.add_argument("--device", default="cuda")
    learn.add_argument("--workers", type=int, default=14, help="processes that draw up the data")
    for limit in fields(Limits):
        learn.add_argument(f"--{limit.name}-limit", type=float, default=math.inf, help="longest time for the stage, in seconds")
    for entry in fields(Recipe):
        learn.add_argument(f"--{entry.name.replace('_', '-')}", type=type(entry.default), default=entry.default)
    show = commands.add_parser("renders", help="a sheet of the catalogue: every object from five sides and in other guises")
    show.add_argument("--out", type=Path, required=True)
    show.add_argument("--seed", type=int, default=0)
    sample = commands.add_parser("sample", help="a sheet of pictures that the model makes, every object from five sides")
    sample.add_argument("--out", type=Path, required=True)
    sample.add_argument("--weights", type=Path, default=WEIGHTS)
    sample.add_argument("--steps", type=int, default=30)
    sample.add_argument("--guidance-scale", type=float, default=4.0)
    sample.add_argument("--seed", type=int, default=0)
    asked = commands.add_parser("evaluate", help="ask the judge what pictures, scenes and ways to tell the view are worth")
    asked.add_argument("what", choices=("pictures", "samples", "scenes", "views"))
    asked.add_argument("--out", type=Path, help="folder for sheets of what was judged")
    asked.add_argument("--weights", type=Path, default=WEIGHTS)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--count", type=int, default=64, help="scenes, or pictures of each object")
    asked.add_argument("--iterations", type=int, default=500, help="of a scene")
    asked.add_argument("--workers", type=int, default=1, help="processes that distil")
    asked.add_argument("--threads", type=int, default=2, help="of each process")
    asked.add_argument("--seed", type=int, default=0)
    thumbnails = commands.add_parser("presets", help="distil the embedded presets by TSM, ask the judge, draw their thumbnails")
    thumbnails.add_argument("--out", type=Path, default=PRESETS, help="folder for the pictures")
    thumbnails.add_argument("--only", nargs="+", metavar="NAME", help="some of them")
    arguments = parser.parse_args()
    run = {"train": run_train, "renders": run_renders, "sample": run_sample, "evaluate": run_evaluate, "presets": run_presets}
    run[arguments.command](arguments)


def run_train(arguments: argparse.Namespace) -> None:
    """Train as the recipe says, with what the command line changes."""
    recipe = Recipe(**{entry.name: getattr(arguments, entry.name) for entry in fields(Recipe)})
    limits = Limits(**{limit.name: getattr(arguments, f"{limit.name}_limit") for limit in fields(Limits)})
    train(recipe, arguments.out, arguments.start, limits, arguments.stages, arguments.device, arguments.workers)


def guises(name: str, row: int) -> list[Thing]:
    """One object in the ways that a prompt can speak of it; colours vary from row to row."""
    color = [COLORS[(5 * row + step) % len(COLORS)] for step in (0, 4, 8, 11)]
    wears = PLACES[name][row % len(PLACES[name])] if PLACES[name] else ""
    return [
        Thing(name, color[0]),
        Thing(name, color[1], "striped"),
        Thing(name, color[2], "spotted"),
        Thing(name, color[3], "glossy"),
        Thing(name, "golden"),
        Thing(name, "wooden"),
        Thing(name, wears=wears, on_table=not wears),
    ]


def run_renders(arguments: argparse.Namespace) -> None:
    """For each object a row: itself from every side and as depth, then its guises seen from the front and its left."""
    rows = []
    for row, name in enumerate(OBJECTS):
        things = [Thing(name)] * (len(SIDES) + 1) + guises(name, row)
        sides = torch.tensor([*SIDES, SIDES[0], *[(35, 20)] * (len(things) - len(SIDES) - 1)], dtype=torch.float32)
        cameras = cameras_at(
            sides[:, 0], sides[:, 1], torch.full((len(things),), 4.0), torch.full((len(things),), 34.0), SIZE, SIZE
        )
        scenes = [build_scene(thing, np.random.default_rng([arguments.seed, row])) for thing in things]
        images, depths = render(scenes, cameras, torch.ones(len(things), 3))
        images[len(SIDES)] = depths[len(SIDES)]
        rows.append((images.clamp(0, 1) * 255).round().byte())
    save_sheet(torch.cat(rows), len(rows[0]), arguments.out)


@torch.no_grad()
def run_sample(arguments: argparse.Namespace) -> None:
    """Every object in two colours from every side, and its depth, by diffusers' own pipeline."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(arguments.weights, torch_dtype=torch.float32)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    sheets = []
    for row, name in enumerate(OBJECTS):
        prompts = []
        for offset in (0, 5):
            thing = describe(Thing(name, COLORS[(5 * row + offset) % len(COLORS)]))
            prompts += [f"{thing}, {view}" for view in VIEWS]
        prompts.append(f"{prompts[0]}, {PROMPTING.depth}")
        pictures = pipeline(
            prompts,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance_scale,
            generator=torch.Generator().manual_seed(arguments.seed + row),
            output_type="pt",
        ).images
        sheets.append((pictures.cpu() * 255).round().byte())
    save_sheet(torch.cat(sheets), len(sheets[0]), arguments.out)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Print the judge's figures; write what it saw."""
    from dreamerxl.guidance.models import load_guidance
    from dreamerxl.miniature.data import draw
    from dreamerxl.miniature.evaluate import VIEW_WORDS, distil, mistakes, random_things, sample_vocabulary, summary
    from dreamerxl.miniature.judge import load_judge
    from dreamerxl.miniature.train import accuracy, load_networks, psnr

    def show(name: str, asked: list[Any], columns: int) -> None:
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in summary(asked).items()), flush=True)
        print("\n".join(f"    {line}" for line in mistakes(asked)))
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            pictures = torch.cat([one.images for one in asked])
            blank = torch.full((-len(pictures) % columns, *pictures.shape[1:]), 255, dtype=torch.uint8)
            save_sheet(torch.cat([pictures, blank]), columns, arguments.out / f"{name.replace(' ', '-')}.png")

    weights, seed = arguments.weights, arguments.seed
    if arguments.what == "pictures":
        judge = load_judge(weights / "judge")
        for name, kind in (("common", "common"), ("unseen", "reserved")):
            renders = draw(arguments.count, 101 + seed, combinations=kind, flawed=False)  # pyright: ignore[reportArgumentType]
            print(f"judge on {len(renders):,} renders of {name} combinations: {accuracy(judge, renders)}", flush=True)
        renders = draw(arguments.count, 1 + seed, flawed=False)
        print(f"VAE on {len(renders):,} renders: PSNR {psnr(load_networks(weights), renders):.2f} dB")
    elif arguments.what == "samples":
        show("samples", sample_vocabulary(load_guidance(str(weights), arguments.device), load_judge(weights / "judge"), seed), 14)
    else:
        things = random_things(arguments.count, seed)
        for name, changes in {"scenes": {}}.items() if arguments.what == "scenes" else VIEW_WORDS.items():
            options = (weights, arguments.device, arguments.workers, arguments.threads, seed, changes)
            show(name, list(distil(things, arguments.iterations, *options)), 16)


def run_presets(arguments: argparse.Namespace) -> None:
    """A thumbnail of each embedded preset, and what the judge says of its scene from four sides."""
    from dreamerxl.gaussians.rasterize import rasterize
    from dreamerxl.gaussians.scene import activate
    from dreamerxl.guidance.models import load_guidance
    from dreamerxl.miniature.evaluate import four_views
    from dreamerxl.miniature.judge import load_judge
    from dreamerxl.training.trainer import Trainer

    guidance, judge, shared = load_guidance("embedded", "cpu"), load_judge(), "embedded"
    for name in arguments.only or preset_names():
        settings = load_preset(name)
        if settings.model != "embedded" or name == shared:
            continue
        tsm = [side for side in settings.to_dict()["variants"] if side["method"] == "tsm"]
        trainer = Trainer(settings.override({"variants": tsm}), guidance)
        for _ in range(settings.iterations):
            trainer.step()
        splats = activate(trainer.sides[0].params)
        views = four_views(splats)
        seen, score = judge.recognise(views), judge.score(views, settings.prompt).mean().item()
        said = ", ".join(f"{coat} {thing}" for coat, thing in zip(seen.coats, seen.objects, strict=True))
        print(f"{name:<12} score {score:.3f}  {said}", flush=True)
        camera = cameras_at(*THUMBNAIL_CAMERA, 2 * SIZE, 2 * SIZE).to(splats.means.device)
        with torch.no_grad():
            picture = rasterize(splats, camera.viewmats, camera.Ks, 2 * SIZE, 2 * SIZE, torch.ones(1, 3)).rgb[0]
        pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX).save(arguments.out / f"{name}.png", optimize=True)


def save_sheet(pictures: Tensor, columns: int, path: Path) -> None:
    """Pictures [N, 3, H, W] uint8 as one PNG, ``columns`` in a row."""
    count, channels, height, width = pictures.shape
    grid = pictures.view(count // columns, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    Image.fromarray(np.ascontiguousarray(grid.reshape(count // columns * height, columns * width, channels))).save(path)


if __name__ == "__main__":
    main()
