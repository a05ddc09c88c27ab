"""How much of an iteration a card can hold at once: memory profiles, and what a run needs under each.

Beside the weights, memory goes to the activations of the VAE's encoder, which wait for the gradient, and to the rows of
one network call. Both can be had in turns: encoding in turns costs one more forward pass of the encoder, fewer rows a
call cost little. Needs are estimates in units that were measured on SDXL at 1024 px; see the constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dreamerxl.config import Settings
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.hardware import card_memory

GB = 2**30  # as cards are sold
KEPT, PASSING = 7.5, 3.0  # of an image: held for the backward, and only on the way; in its size times the first width
PER_ROW = 20.0  # of a network row, in the latents' size times the first width
PER_GAUSSIAN = 1500  # bytes: parameters, gradients, Adam's moments, and the rasterizer's lists
WIDTH = 128  # channels of the encoder's first layer, in Stable Diffusion and SDXL
ALWAYS = GB  # CUDA's context and the libraries' workspaces


@dataclass(frozen=True)
class Profile:
    """How much is held at once, for cards of some size."""

    card_gb: int
    encode_at_once: int | None  # images; more are encoded in turns, and once again for the backward. None: no limit
    max_rows: int | None  # of one network call


PROFILES = (Profile(80, None, None), Profile(40, 8, 24), Profile(24, 4, 12), Profile(16, 1, 8))


def choose_profile(settings: Settings, guidance: Guidance, free: int, total: int) -> Profile:
    """The profile of a card of that size, or the first smaller one whose need is free. Bytes."""
    sold = [profile for profile in PROFILES if total >= 0.95 * profile.card_gb * GB] or [PROFILES[-1]]
    fitting = [profile for profile in PROFILES[PROFILES.index(sold[0]) :] if need_bytes(settings, guidance, profile) <= free]
    return fitting[0] if fitting else PROFILES[-1]


def need_bytes(settings: Settings, guidance: Guidance, profile: Profile) -> int:
    """About what a run needs on its first card, weights included; others that share it need less."""
    unet, vae = guidance.unet, guidance.vae
    images, rows = shares_of(settings, 1 + len(guidance.others))
    at_once, rows = min(images, profile.encode_at_once or images), min(rows, profile.max_rows or rows)
    image = guidance.resolution**2 * vae.config.block_out_channels[0] * vae.dtype.itemsize
    row = guidance.latent_size**2 * unet.config.block_out_channels[0] * guidance.dtype.itemsize
    density = settings.densification
    gaussians = max(settings.initialization.count, density.max_count if density.enabled else 0) * len(settings.variants)
    return round(
        weight_bytes(guidance) + at_once * image * (KEPT + PASSING) + rows * row * PER_ROW + gaussians * PER_GAUSSIAN + ALWAYS
    )


def weight_bytes(guidance: Guidance) -> int:
    """The UNet's and the VAE's weights; the text encoders wait on the CPU."""
    parts = (guidance.unet, guidance.vae)
    return sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters())


def views_of(settings: Settings) -> int:
    """Images that one iteration encodes."""
    return settings.views.batch * len(settings.variants)


def rows_of(settings: Settings) -> int:
    """The most rows that a round of queries can have: guided ones are two, with Perp-Neg four; and a reference."""
    guided = 4 if settings.prompting.perp_neg else 2
    return views_of(settings) * (guided + 1)


def shares_of(settings: Settings, cards: int) -> tuple[int, int]:
    """The images and the rows that fall to each of so many cards, at most."""
    return -(-views_of(settings) // cards), -(-rows_of(settings) // cards)


def fit(settings: Settings, guidance: Guidance) -> tuple[Profile, tuple[str, ...]]:
    """The profile for a run on this machine, and a sentence with need and free memory; no sentence on a CPU."""
    if guidance.device.type != "cuda":
        return PROFILES[0], ()
    cards = (guidance, *guidance.others)
    free, total = min(card_memory(card.device) for card in cards)
    free += weight_bytes(guidance)  # they are on the card already, and part of the need
    profile = choose_profile(settings, guidance, free, total)
    return profile, (sentence(settings, profile, need_bytes(settings, guidance, profile), free, total, len(cards)),)


def sentence(settings: Settings, profile: Profile, need: int, free: int, total: int, cards: int = 1) -> str:
    """What the visitor is told before the run starts. Bytes."""
    images, rows = shares_of(settings, cards)
    ways = []
    if profile.encode_at_once is not None and profile.encode_at_once < images:
        ways.append(f"{profile.encode_at_once} of {images} pictures encoded at a time")
    if profile.max_rows is not None and profile.max_rows < rows:
        ways.append(f"at most {profile.max_rows} rows a network call")
    how = ", ".join(ways) or "everything at once"
    shared = f" on each of {cards} cards, which share its pictures and predictions" if cards > 1 else ""
    text = f"Memory: the run needs about {need / GB:.0f} GB of {total / GB:.0f}{shared}, {free / GB:.0f} are free; {how}."
    if need > free:
        text += " That may not be enough: fewer views per iteration, fewer Gaussians or one side need less."
    return text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocator, of a card or of the machine."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def what_needs_less(settings: Settings) -> str:
    """For a run whose memory was not enough: the setting that takes the most, and what to lower it to."""
    density, start, batch = settings.densification, settings.initialization.count, settings.views.batch
    grows = density.enabled and density.max_count > start
    gaussians = (density.max_count if grows else start) * len(settings.variants) * PER_GAUSSIAN
    images = views_of(settings) * settings.views.resolution**2 * WIDTH * 2 * (KEPT + PASSING)
    if gaussians >= images:
        name, value = ("densification.max_count", density.max_count) if grows else ("initialization.count", start)
        saved = gaussians / 2
    elif batch > 1:
        name, value, saved = "views.batch", batch, images * (1 - batch // 2 / batch)
    else:
        name, value, saved = "views.resolution", settings.views.resolution, images * 0.75
    size = f"{saved / GB:.1f} GB" if saved >= GB / 10 else f"{saved / 2**20:.0f} MB"
    return (
        f"The memory was not enough. Lower {name} from {value:,} to {value // 2:,}, which takes about {size} less"
        f"{', or train one side instead of ' + str(len(settings.variants)) if len(settings.variants) > 1 else ''}."
    )
