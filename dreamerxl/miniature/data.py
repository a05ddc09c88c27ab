"""The training set: every object from every side in all that can be said of it, drawn again identically from a seed."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerxl.cameras import cameras_at
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.language import FLAWS, MAX_TOKENS, caption, make_tokenizer
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.render import Scene, render
from dreamerxl.miniature.world import COATS, PATTERNS, Thing, build_scene, draw_jumble, draw_thing, is_reserved

SIZE = 128  # pixels
BATCH = 64  # renders drawn together; part of the recipe, since one generator serves a batch
CAPTIONS = 4  # of each picture
FLAW_SHARE = 0.06  # of the pictures that are spoilt, and said to be
JUMBLES = ("",)  # in place of the names of objects

Combinations = Literal["all", "common", "reserved"]


@dataclass(frozen=True)
class Renders:
    """Pictures, what they show, and what is said of them."""

    images: Tensor  # [N, 3, 128, 128] uint8
    depths: Tensor  # [N, 1, 128, 128] uint8, normalised disparity
    objects: Tensor  # [N] index into OBJECTS; -1 for a jumble
    coats: Tensor  # [N] index into COATS, as seen
    patterns: Tensor  # [N] index into PATTERNS
    worn: Tensor  # [N] 0 nothing, else 1 + index into ACCESSORIES
    flawed: Tensor  # [N] whether the picture was spoilt
    azimuth_deg: Tensor  # [N]
    elevation_deg: Tensor  # [N]
    captions: Tensor  # [N, CAPTIONS, MAX_TOKENS] int16 token ids without an end token, padded
    lengths: Tensor  # [N, CAPTIONS] int16

    def __len__(self) -> int:
        return len(self.images)

    def map(self, change: object) -> Renders:
        """The same change made to every tensor."""
        return Renders(*(change(getattr(self, name)) for name in self.__dataclass_fields__))  # pyright: ignore[reportCallIssue]

    def to(self, device: torch.device | str) -> Renders:
        """A copy on a device."""
        return self.map(lambda x: x.to(device))

    def at(self, index: Tensor) -> Renders:
        """Some of the rows."""
        return self.map(lambda x: x[index])


@dataclass(frozen=True)
class Sketch:
    """A batch before it is drawn: scenes, cameras, backgrounds and words, all plain arrays."""

    scenes: list[Scene]
    camera: np.ndarray  # [B, 4] azimuth, elevation, radius, field of view
    backgrounds: np.ndarray  # [B, 3]
    flaws: list[str]
    noise_seed: int
    labels: np.ndarray  # [B, 4] object, coat, pattern, worn
    captions: np.ndarray
    lengths: np.ndarray


@functools.cache
def _tokenizer() -> object:
    return make_tokenizer()


def sketch_batch(name: str, index: int, seed: int, combinations: Combinations = "all", flawed: bool = True) -> Sketch:
    """Batch ``index`` of one object, or of jumbles, up to drawing it; everything from the seed. Nothing is said of jumbles."""
    which = list(OBJECTS).index(name) if name else len(OBJECTS)
    generator = np.random.default_rng([seed, which, index])
    wanted = {"all": lambda _: True, "common": lambda t: not is_reserved(t), "reserved": is_reserved}[combinations]
    things = [draw_thing(name, generator, wanted) if name else draw_jumble(generator) for _ in range(BATCH)]
    flaws = [_draw_flaw(generator) if flawed else "" for _ in things]
    texts = [
        caption(thing, generator, flaw) if name else ""
        for thing, flaw in zip(things, flaws, strict=True)
        for _ in range(CAPTIONS)
    ]
    rows = _tokenizer()(texts, add_special_tokens=False).input_ids  # pyright: ignore[reportCallIssue]
    captions = np.zeros((BATCH * CAPTIONS, MAX_TOKENS), np.int16)
    for out, ids in zip(captions, rows, strict=True):
        out[: len(ids)] = ids
    kind, plain = generator.random((BATCH, 1)), generator.random((BATCH, 3))
    backgrounds = np.where(kind < 0.45, 1.0, np.where(kind < 0.55, 0.0, plain))
    low, high = np.array([-180, -20, 3.5, 33]), np.array([180, 65, 4.6, 36])
    return Sketch(
        scenes=[build_scene(thing, generator) for thing in things],
        camera=(low + (high - low) * generator.random((BATCH, 4))).astype(np.float32),
        backgrounds=backgrounds.astype(np.float32),
        flaws=flaws,
        noise_seed=int(generator.integers(2**31)),
        labels=np.array([_labels(thing) for thing in things]),
        captions=captions.reshape(BATCH, CAPTIONS, MAX_TOKENS),
        lengths=np.array([len(ids) for ids in rows], np.int16).reshape(BATCH, CAPTIONS),
    )


def _draw_flaw(generator: np.random.Generator) -> str:
    chance, which = generator.random(), generator.integers(len(FLAWS))
    return list(FLAWS)[which] if chance < FLAW_SHARE else ""


def _labels(thing: Thing) -> tuple[int, int, int, int]:
    worn = 1 + list(ACCESSORIES).index(thing.wears) if thing.wears else 0
    pattern = list(PATTERNS).index(thing.pattern or "plain")
    which = list(OBJECTS).index(thing.object) if thing.object else -1
    return which, COATS.index(thing.seen_coat), pattern, worn


def draw_sketch(sketch: Sketch, device: torch.device | str = "cpu") -> Renders:
    """The pictures of a batch, on the device."""
    azimuth, elevation, radius, fovy = torch.from_numpy(sketch.camera).unbind(1)
    cameras = cameras_at(azimuth, elevation, radius, fovy, SIZE, SIZE).to(device)
    images, depths = render(sketch.scenes, cameras, torch.from_numpy(sketch.backgrounds).to(device))
    generator = torch.Generator().manual_seed(sketch.noise_seed)
    for i, flaw in enumerate(sketch.flaws):
        if flaw:
            images[i] = spoil(images[i], flaw, generator)
    labels = torch.from_numpy(sketch.labels).to(device)
    return Renders(
        images=(images.clamp(0, 1) * 255).round().byte(),
        depths=(depths * 255).round().byte(),
        objects=labels[:, 0],
        coats=labels[:, 1],
        patterns=labels[:, 2],
        worn=labels[:, 3],
        flawed=torch.tensor([bool(flaw) for flaw in sketch.flaws], device=device),
        azimuth_deg=azimuth.to(device),
        elevation_deg=elevation.to(device),
        captions=torch.from_numpy(sketch.captions).to(device),
        lengths=torch.from_numpy(sketch.lengths).to(device),
    )


def spoil(image: Tensor, flaw: str, generator: torch.Generator) -> Tensor:
    """A picture [3, H, W] with one of FLAWS, of random strength."""
    strength = 0.4 + 0.6 * torch.rand((), generator=generator).item()
    if flaw == "blur":
        sigma = 1.0 + 2.5 * strength
        taps = torch.exp(-0.5 * (torch.arange(-9.0, 10.0, device=image.device) / sigma) ** 2)
        taps = (taps / taps.sum()).expand(3, 1, -1)
        padded = F.pad(image[None], (9, 9, 9, 9), mode="replicate")
        return F.conv2d(F.conv2d(padded, taps[..., None, :], groups=3), taps[..., None], groups=3)[0]
    if flaw == "noise":
        return image + 0.22 * strength * torch.randn(image.shape, generator=generator).to(image.device)
    if flaw == "fade":
        return image + 0.75 * strength * (image.mean() - image)
    if flaw == "dark":
        return image * (1 - 0.75 * strength)
    grey = image.mean(0, keepdim=True)
    return grey + (1 + 2 * strength) * (image - grey)


@contextmanager
def sketchers(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that sketch while the device draws; none for workers = 0."""
    if not workers:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def draw(
    count: int,
    seed: int,
    device: torch.device | str = "cpu",
    pool: ProcessPoolExecutor | None = None,
    combinations: Combinations = "all",
    flawed: bool = True,
    names: Sequence[str] = (),
) -> Renders:
    """``count`` pictures of each object, in a fixed order; with names=JUMBLES, of jumbles."""
    jobs = [(name, index, seed, combinations, flawed) for name in names or OBJECTS for index in range(-(-count // BATCH))]
    columns = zip(*jobs, strict=True)
    sketches = pool.map(sketch_batch, *columns, chunksize=4) if pool else map(sketch_batch, *columns)
    batches = [draw_sketch(sketch, device) for sketch in sketches]
    per_object = [batches[i : i + -(-count // BATCH)] for i in range(0, len(batches), -(-count // BATCH))]
    return join([join(group).at(torch.arange(count, device=device)) for group in per_object])


def join(parts: list[Renders]) -> Renders:
    """Several sets as one."""
    return Renders(*(torch.cat([getattr(part, name) for part in parts]) for name in Renders.__dataclass_fields__))
