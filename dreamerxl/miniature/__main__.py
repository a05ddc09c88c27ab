"""``python -m dreamerxl.miniature``: train the embedded model again, look at its data, sample from it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamerxl.miniature.architecture import WEIGHTS
from dreamerxl.miniature.data import draw_batch
from dreamerxl.miniature.language import COLORS, PROMPTING, VIEWS, describe
from dreamerxl.miniature.objects import OBJECTS


def main() -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(prog="python -m dreamerxl.miniature", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train on a CUDA card and write a diffusers folder")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--start", type=Path, help="folder to continue from")
    train.add_argument("--keep-vae", action="store_true", help="do not train the VAE again (needs --start)")
    train.add_argument("--vae-steps", type=int)
    train.add_argument("--unet-steps", type=int)
    train.add_argument("--unet-lr", type=float)
    train.add_argument("--vae-limit", type=float, default=math.inf, help="seconds")
    train.add_argument("--unet-limit", type=float, default=math.inf, help="seconds")
    train.add_argument("--renders", type=int, help="pictures of each object")
    train.add_argument("--seed", type=int)
    show = commands.add_parser("renders", help="a sheet of training pictures")
    show.add_argument("--out", type=Path, required=True)
    sample = commands.add_parser("sample", help="a sheet of pictures that the model makes, every object from five sides")
    sample.add_argument("--out", type=Path, required=True)
    sample.add_argument("--weights", type=Path, default=WEIGHTS)
    sample.add_argument("--steps", type=int, default=30)
    sample.add_argument("--guidance-scale", type=float, default=4.0)
    sample.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    {"train": run_train, "renders": run_renders, "sample": run_sample}[arguments.command](arguments)


def run_train(arguments: argparse.Namespace) -> None:
    """Train as the recipe says, with what the command line changes."""
    from dreamerxl.miniature.train import Limits, Recipe, train

    changes = {name: getattr(arguments, name) for name in ("vae_steps", "unet_steps", "unet_lr", "renders", "seed")}
    recipe = Recipe(**{name: value for name, value in changes.items() if value is not None})
    limits = Limits(arguments.vae_limit, arguments.unet_limit)
    train(recipe, arguments.out, arguments.start, limits, train_vae_too=not arguments.keep_vae)


def run_renders(arguments: argparse.Namespace) -> None:
    """Eight training pictures and their depth for each object."""
    rows = []
    for name in OBJECTS:
        batch = draw_batch(name, 0, 0, torch.device("cpu"))
        rows += [batch.images[:8], batch.depths[:8].expand(-1, 3, -1, -1)]
    save_sheet(torch.cat(rows), 8, arguments.out)


@torch.no_grad()
def run_sample(arguments: argparse.Namespace) -> None:
    """Every object in two colours from every side, and its depth, by diffusers' own pipeline."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(arguments.weights, torch_dtype=torch.float32)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    names, sheets = list(COLORS), []
    for row, name in enumerate(OBJECTS):
        prompts = []
        for offset in (0, 5):
            thing = describe(name, names[(3 * row + offset) % len(names)])
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


def save_sheet(pictures: Tensor, columns: int, path: Path) -> None:
    """Pictures [N, 3, H, W] uint8 as one PNG, ``columns`` in a row."""
    count, channels, height, width = pictures.shape
    grid = pictures.view(count // columns, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    Image.fromarray(np.ascontiguousarray(grid.reshape(count // columns * height, columns * width, channels))).save(path)


if __name__ == "__main__":
    main()
