"""Memory profiles: which one a card gets, and what the visitor is told."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import ISM, TSM
from torch import nn

from dreamerxl.config import Settings, Variant
from dreamerxl.training.memory import PROFILES, choose_profile, need_bytes, sentence

GB = 2**30


def sdxl() -> Any:
    """What the estimate looks at, in SDXL's size: 2.57 and 0.08 billion weights in bfloat16, which take no memory here."""

    def part(weights: int, width: int) -> Any:
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(weights, dtype=torch.bfloat16, device="meta"))
        return SimpleNamespace(
            parameters=module.parameters, config=SimpleNamespace(block_out_channels=(width,)), dtype=torch.bfloat16
        )

    unet, vae = part(2_567_000_000, 320), part(84_000_000, 128)
    return SimpleNamespace(unet=unet, vae=vae, resolution=1024, latent_size=128, dtype=torch.bfloat16, others=())


def settings(*variants: Variant, **changes: Any) -> Settings:
    return Settings().override({"variants": [dataclasses.asdict(variant) for variant in variants], **changes})


@pytest.mark.parametrize(("total", "name"), [(79.2, 80), (139, 80), (48, 40), (39.4, 40), (23.6, 24), (15.7, 16), (12, 16)])
def test_a_card_gets_the_profile_of_its_size(total: float, name: int) -> None:
    assert choose_profile(settings(TSM), sdxl(), int(0.97 * total * GB), int(total * GB)).card_gb == name


def test_a_card_that_others_use_gets_a_smaller_profile() -> None:
    run, guidance = settings(ISM, TSM), sdxl()
    needs = [need_bytes(run, guidance, profile) for profile in PROFILES]
    assert needs == sorted(needs, reverse=True) and needs[-1] < needs[0] / 1.5
    for free, profile in zip(needs, PROFILES, strict=True):
        chosen = choose_profile(run, guidance, free, 79 * GB)
        assert need_bytes(run, guidance, chosen) <= free and PROFILES.index(chosen) <= PROFILES.index(profile)
    assert choose_profile(run, guidance, needs[-1] - 1, 79 * GB) is PROFILES[-1]


def test_every_profile_fits_its_card() -> None:
    for profile in PROFILES:
        assert need_bytes(settings(ISM, TSM), sdxl(), profile) < 0.95 * profile.card_gb * GB


def test_need_grows_with_what_a_run_holds() -> None:
    guidance, profile = sdxl(), PROFILES[0]
    base = need_bytes(settings(TSM), guidance, profile)
    assert need_bytes(settings(ISM, TSM), guidance, profile) > base
    assert need_bytes(settings(TSM, **{"views.batch": 8}), guidance, profile) > base
    assert need_bytes(settings(TSM, **{"prompting.perp_neg": True}), guidance, profile) > base
    assert need_bytes(settings(TSM, **{"densification.max_count": 2_000_000}), guidance, profile) > base


def test_the_sentence_names_need_and_free() -> None:
    run = settings(ISM, TSM)
    assert sentence(run, PROFILES[0], 21 * GB, 78 * GB, 79 * GB) == (
        "Memory: the run needs about 21 GB of 79, 78 are free; everything at once."
    )
    tight = sentence(run, PROFILES[-1], 11 * GB, 8 * GB, 16 * GB)
    assert "1 of 8 pictures encoded at a time, at most 8 rows a network call" in tight and "may not be enough" in tight
