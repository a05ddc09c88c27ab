"""What the embedded model is worth, asked of the judge: pictures of every word, and scenes distilled from random prompts.

    sample_vocabulary   every object in every colour and material, drawn by DDIM from one side; named right or not
    distil              one scene by TSM; what the judge names on its front, left, back and right
    janus               whether a front is seen from behind
The judge was trained on renders only, apart from the model, so it is no party to what it judges.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerxl.cameras import orbit_cameras
from dreamerxl.config import Settings, load_preset
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import Splats, activate
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.conditioning import join
from dreamerxl.guidance.models import load_guidance
from dreamerxl.guidance.prompts import phrase
from dreamerxl.miniature.judge import SIDES, Judge, load_judge
from dreamerxl.miniature.language import VIEWS, describe
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COATS, Thing, draw_thing
from dreamerxl.training.trainer import Trainer

CAMERA = (15.0, 4.0, 34.4)  # elevation in degrees, distance, field of view in degrees
ASKED_SIDES = SIDES[:4]  # front, left, back, right: the order of four cameras of a turntable


@dataclass(frozen=True)
class Asked:
    """A thing that was asked for, and the pictures that were made of it."""

    thing: Thing
    prompt: str
    images: Tensor  # [V, 3, 128, 128] uint8
    objects: list[str]  # named by the judge
    coats: list[str]
    sides: Tensor  # [V, 5] the judge's probability of each of SIDES
    scores: Tensor  # [V] cosine of picture and prompt

    @property
    def right(self) -> list[bool]:
        """Whether both object and colour or material are named right, for each picture."""
        pairs = zip(self.objects, self.coats, strict=True)
        return [seen == self.thing.object and coat == self.thing.seen_coat for seen, coat in pairs]

    @property
    def faces_everywhere(self) -> bool:
        """Whether the judge takes the picture from behind (the third of four) for a front: Janus."""
        return SIDES[int(self.sides[2].argmax())] == "front"


def ask(judge: Judge, thing: Thing, prompt: str, images: Tensor) -> Asked:
    """What the judge says of pictures [V, 3, H, W] in 0..1."""
    seen, scores = judge.recognise(images), judge.score(images, prompt)
    return Asked(thing, prompt, (images * 255).round().byte().cpu(), seen.objects, seen.coats, seen.sides.cpu(), scores.cpu())


def vocabulary() -> list[Thing]:
    """Every object in every colour and material."""
    return [Thing(name, coat) for name in OBJECTS for coat in COATS]


@torch.no_grad()
def sample(guidance: Guidance, prompts: Sequence[str], generator: torch.Generator, steps: int = 30, scale: float = 4.0) -> Tensor:
    """Pictures [N, 3, H, W] in 0..1 of the prompts, by DDIM from noise of the generator under guidance ``scale``."""
    shape = (len(prompts), guidance.latent_channels, guidance.latent_size, guidance.latent_size)
    x = torch.randn(shape, generator=generator).to(guidance.device)
    length = len(guidance.schedule)
    times = [round((i + 1) * (length - 1) / steps) for i in reversed(range(steps))] + [0]
    conditioning = join([guidance.embed([""]).rows([0] * len(prompts)), guidance.embed(list(prompts))])
    for here, there in itertools.pairwise(times):
        t = torch.full((2 * len(x),), here, device=x.device)
        without, with_prompt = guidance.predict(torch.cat([x, x]), t, conditioning).chunk(2)
        x = ddim_step(guidance.schedule, x, without + scale * (with_prompt - without), here, there)
    return guidance.decode(x)


def sample_vocabulary(guidance: Guidance, judge: Judge, seed: int = 0, batch: int = 76) -> list[Asked]:
    """One picture of every object in every coat, from a side that changes from one to the next."""
    judge = judge.to(guidance.device)
    generator, things, asked = torch.Generator().manual_seed(seed), vocabulary(), []
    for start in range(0, len(things), batch):
        group = things[start : start + batch]
        prompts = [phrase(describe(thing), VIEWS[(start + i) % len(VIEWS)]) for i, thing in enumerate(group)]
        images = sample(guidance, prompts, generator)
        asked += [ask(judge, thing, prompts[i], images[i : i + 1]) for i, thing in enumerate(group)]
    return asked


def random_things(count: int, seed: int) -> list[Thing]:
    """Things as prompts would name them: every object about as often, each in a colour or material; some with more to say."""
    generator, names = np.random.default_rng(seed), list(OBJECTS)
    order = np.concatenate([generator.permutation(len(names)) for _ in range(-(-count // len(names)))])[:count]
    return [draw_thing(names[i], generator, lambda thing: bool(thing.coat)) for i in order]


def four_views(splats: Splats) -> Tensor:
    """Pictures [4, 3, 128, 128] in 0..1 of a scene on white: front, left, back, right."""
    elevation, radius, fovy = CAMERA
    cameras = orbit_cameras(4, elevation, radius, fovy, 128, 128).to(splats.means.device)
    white = torch.ones(4, 3, device=splats.means.device)
    with torch.no_grad():
        render = rasterize(splats, cameras.viewmats, cameras.Ks, cameras.width, cameras.height, white)
    return render.rgb.movedim(-1, 1).clamp(0, 1)


def settings_for(thing: Thing, iterations: int, seed: int, changes: Mapping[str, Any]) -> Settings:
    """One side of the embedded preset, TSM, with this thing as the prompt."""
    preset = load_preset("embedded")
    tsm = next(variant for variant in preset.to_dict()["variants"] if variant["method"] == "tsm")
    base = {"variants": [tsm], "prompt": describe(thing), "iterations": iterations, "seed": seed, "checkpoint_every": 0}
    return preset.override(base | dict(changes))


# How the view can be told to the model; the finer words are the preset's own.
VIEW_WORDS: dict[str, dict[str, Any]] = {
    "plain words": {"prompting.left": "side view", "prompting.right": "side view", "prompting.overhead": ""},
    "finer words": {},
    "Perp-Neg": {"prompting.perp_neg": True},
}

_worker: tuple[Guidance, Judge] | None = None


def _start_worker(weights: str, device: str, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    guidance = load_guidance(weights, device)
    _worker = guidance, load_judge(Path(weights) / "judge").to(guidance.device)


def _distil(job: tuple[Thing, int, int, Mapping[str, Any]]) -> Asked:
    assert _worker is not None
    guidance, judge = _worker
    thing, iterations, seed, changes = job
    trainer = Trainer(settings_for(thing, iterations, seed, changes), guidance)
    for _ in range(iterations):
        trainer.step()
    return ask(judge, thing, trainer.settings.prompt, four_views(activate(trainer.sides[0].params)))


def distil(
    things: Sequence[Thing],
    iterations: int,
    weights: Path,
    device: str = "cpu",
    workers: int = 1,
    threads: int = 1,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> Iterator[Asked]:
    """A scene of each thing by TSM, each run in one of several processes; yields as they end, in the order asked."""
    jobs = [(thing, iterations, seed + i, dict(changes or {})) for i, thing in enumerate(things)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (str(weights), device, threads)) as pool:
        yield from pool.map(_distil, jobs)


def summary(asked: Sequence[Asked]) -> dict[str, float]:
    """Shares of pictures: object right, coat right, both right; the mean score; of scenes of four views, the share of Janus."""
    objects = [seen == one.thing.object for one in asked for seen in one.objects]
    coats = [seen == one.thing.seen_coat for one in asked for seen in one.coats]
    both = [right for one in asked for right in one.right]
    shares = {"object": float(np.mean(objects)), "coat": float(np.mean(coats)), "both": float(np.mean(both))}
    shares["score"] = float(torch.cat([one.scores for one in asked]).mean())
    if all(len(one.images) == len(ASKED_SIDES) for one in asked):
        shares["janus"] = float(np.mean([one.faces_everywhere for one in asked]))
    return shares


def mistakes(asked: Sequence[Asked]) -> list[str]:
    """A line for each thing that was not always named right."""
    lines = []
    for one in asked:
        if not all(one.right):
            said = ", ".join(f"{coat} {name}" for name, coat in zip(one.objects, one.coats, strict=True))
            lines.append(f"{one.prompt}: {said}")
    return lines
