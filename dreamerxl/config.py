"""Settings of a run: one frozen source for presets (YAML), the command line and the sliders of the page.

Every field carries its help text, unit and range. ``Settings.from_dict`` refuses unknown keys (and offers the
nearest name), wrong types, values out of range and NaN, with a sentence that names the field, the value and what
would be accepted. Angles are in degrees, lengths in world units (the object fits in the unit ball), timesteps in
0..999.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dreamerxl.errors import SettingsError

LONGEST_TEXT = 1000  # characters of a prompt, phrase, model or file name
LARGEST_FILE = 1_000_000  # bytes of a settings file
_HERE = Path(__file__).resolve().parent
PRESETS = _HERE / "presets" if (_HERE / "presets").is_dir() else _HERE.parent / "presets"  # installed, or a clone
BASES = ("embedded", "sdxl", "released")  # presets that others extend and that are none themselves

Method = Literal["sds", "csd", "ism", "tsm", "vsd"]
Rule = Literal["paper", "released"]


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None, unit: str = "") -> Any:
    """A dataclass field with what a slider, a help page and a check need: text, inclusive range and unit."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "unit": unit})


@dataclass(frozen=True)
class Variant:
    """One side of a comparison: a distillation method and the settings that may differ between sides."""

    method: Method = setting("tsm", "distillation method")
    gamma: float = setting(
        0.3, "offset rate: where mu lies between s and t (0 is ISM, 1 is CSD on the inverted trajectory)", low=0, high=1
    )
    delta_t: int = setting(80, "interval t - s of the trajectory (paper: delta_T)", low=1, high=999, unit="timesteps")
    delta_t_start: int | None = setting(
        None, "delta_T at iteration 0, annealed to delta_t; empty keeps it constant", low=1, high=999, unit="timesteps"
    )
    delta_s: int = setting(200, "step of the DDIM inversion from x_0 to x_s (paper: delta_S)", low=1, high=999, unit="timesteps")
    max_inversion_steps: int | None = setting(
        None, "start the inversion at most this many steps below s (released code: 5); empty starts at x_0", low=1, high=999
    )
    inversion_start: Literal["clean", "noised"] = setting(
        "clean", "start from x_0 itself (Algorithm 1) or from x_0 noised to the first timestep (released code)"
    )
    csd_trajectory: Literal["noise", "inversion"] = setting(
        "noise", "how CSD reaches x_t: one noise (Yu et al.) or the inverted trajectory (TSM at gamma = 1)"
    )
    mu_rule: Rule = setting("paper", "paper: mu = s + gamma (t - s); released: mu = s + sqrt(1 - gamma^2) (t - s)")
    weight: Literal["released", "dreamfusion", "uniform"] = setting(
        "released", "omega(t): sqrt((1 - a_t) / a_t), 1 - a_t, or 1 (the paper leaves it open)"
    )
    guidance_scale: float = setting(7.5, "classifier-free guidance w in eps_uncond + w (eps_cond - eps_uncond)", low=0, high=200)
    clip_color: float | None = setting(
        0.05, "threshold of pixel-wise colour gradient clipping (Pan et al.); empty turns it off", low=1e-8, high=1e6
    )
    clip_depth: float | None = setting(
        0.01, "threshold c of depth gradient clipping (Eq. 9); empty turns it off", low=1e-8, high=1e6
    )
    depth_clip_rule: Rule = setting("paper", "paper: min(s/|g|, c) per element (Eq. 9); released: one factor for the map")


@dataclass(frozen=True)
class Particles:
    """The model of a run's own scenes that VSD trains along: a LoRA of the same UNet. The run's VSD sides are its particles."""

    rank: int = setting(4, "rank of the LoRA on the attention layers", low=1, high=256)
    learning_rate: float = setting(1e-4, "learning rate of the LoRA and of the camera's embedding", low=0, high=1)
    steps: int = setting(1, "training steps of the LoRA in each iteration", low=1, high=100)


@dataclass(frozen=True)
class Timesteps:
    """How t is drawn; every side of a run shares the draw."""

    rule: Rule = setting("paper", "paper: uniform over the whole schedule; released: an upper bound annealed down")
    t_min: int = setting(20, "lowest t under the released rule", low=1, high=999, unit="timesteps")
    t_max: int = setting(500, "highest t under the released rule, after annealing", low=1, high=999, unit="timesteps")
    t_max_start: int = setting(980, "highest t under the released rule, at iteration 0", low=1, high=999, unit="timesteps")
    anneal_iterations: int = setting(
        1500, "iterations over which t_max_start falls to t_max and delta_t_start to delta_t", low=0, high=1_000_000
    )


@dataclass(frozen=True)
class Views:
    """Training cameras: on a sphere, looking at the origin, z up, the object's front towards azimuth 0 (+x)."""

    batch: int = setting(4, "views per iteration", low=1, high=64)
    resolution: int = setting(1024, "side of the square training image", low=32, high=2048, unit="pixels")
    radius_min: float = setting(3.5, "nearest camera", low=1.05, high=100)
    radius_max: float = setting(5.5, "farthest camera", low=1.05, high=100)
    fovy_min_deg: float = setting(9.2, "narrowest vertical field of view", low=1, high=150, unit="degrees")
    fovy_max_deg: float = setting(34.4, "widest vertical field of view", low=1, high=150, unit="degrees")
    elevation_min_deg: float = setting(-15.0, "lowest camera", low=-89, high=89, unit="degrees")
    elevation_max_deg: float = setting(45.0, "highest camera", low=-89, high=89, unit="degrees")
    azimuth_range_deg: float = setting(180.0, "cameras lie within this of the front", low=0, high=180, unit="degrees")
    angle_gamma: float = setting(
        1.0, "above 1 draws azimuth and elevation towards the middle of their ranges (released: rand_cam_gamma)", low=0.1, high=10
    )
    widen_rule: Literal["linear", "released"] = setting(
        "linear", "linear: all ranges widen evenly; released: every 500 iterations, elevation excepted"
    )
    widen_start: float = setting(1.0, "share of the azimuth and elevation ranges used at iteration 0", low=0, high=1)
    widen_iterations: int = setting(0, "iterations over which the ranges widen to the whole (linear)", low=0, high=1_000_000)
    start_radius_min: float | None = setting(None, "nearest camera at iteration 0; empty takes radius_min", low=1.05, high=100)
    start_radius_max: float | None = setting(None, "farthest camera at iteration 0; empty takes radius_max", low=1.05, high=100)
    start_fovy_min_deg: float | None = setting(
        None, "narrowest vertical field of view at iteration 0; empty takes fovy_min_deg", low=1, high=150, unit="degrees"
    )
    random_background: float = setting(0.5, "probability of a random or black background instead of white", low=0, high=1)


@dataclass(frozen=True)
class Prompting:
    """How the view reaches the prompt: a phrase for each direction, embeddings interpolated in between."""

    negative_prompt: str = setting("", "what the unconditional branch of guidance is told")
    inversion_prompt: str = setting("", "prompt of the inversion and of the unconditional prediction (paper: empty)")
    front: str = setting("front view", "phrase for azimuth 0")
    left: str = setting("side view", "phrase for azimuth 90 (the object's left)")
    back: str = setting("back view", "phrase for azimuth 180")
    right: str = setting("side view", "phrase for azimuth -90 (the object's right)")
    overhead: str = setting("", "phrase for views from above; empty leaves elevation out of the prompt")
    depth: str = setting("", "phrase added when the depth is guided instead of the colour")
    empty: Literal["model", "text"] = setting(
        "model", "what an empty prompt is to SDXL: zeros, as it was trained, or the embedding of the empty text (released code)"
    )
    perp_neg: bool = setting(
        False, "Perp-Neg (Armandpour et al.): push away from the phrases of the other sides; two more predictions a view"
    )
    perp_neg_weight: float = setting(2.0, "Perp-Neg: strength (released: -negative_w)", low=0, high=20)
    perp_neg_front_decay: float = setting(2.0, "Perp-Neg: how fast the push from the front's phrase fades", low=0, high=100)
    perp_neg_side_decay: float = setting(10.0, "Perp-Neg: how fast the push from the sides' phrases fades", low=0, high=100)


@dataclass(frozen=True)
class Initialization:
    """Where the Gaussians start."""

    shape: Literal["ball", "shell", "box", "text", "file"] = setting(
        "ball", "points in a ball, on a sphere, in a cube, on what Shap-E makes of a text, or from a file"
    )
    count: int = setting(100_000, "Gaussians at the start", low=10, high=5_000_000)
    radius: float = setting(0.6, "radius of the ball or sphere, half side of the cube", low=0.01, high=10)
    prompt: str = setting("", "for shape 'text': what to make first, in a few words (released: init_prompt); empty: the prompt")
    shap_e: str = setting("openai/shap-e", "for shape 'text': Shap-E's diffusers folder or hub id")
    file: str = setting("", "for shape 'file': a .ply of points or Gaussians, a .splat, or a mesh (.glb, .obj)")
    up: Literal["auto", "z", "y", "-y"] = setting("auto", "which axis points up in the file; auto: y in meshes, else z")
    turn_deg: float = setting(
        0.0, "turns what a text or a file gives around the vertical, to the left", low=-180, high=180, unit="degrees"
    )
    fit: bool = setting(False, "scale a file's Gaussians into the ball of the radius, as is done with points and meshes")
    keep_colors: bool = setting(True, "start with the colours of the text's or file's points; off: grey (released code)")
    opacity: float = setting(0.1, "initial opacity", low=1e-4, high=0.999)
    scale: float | None = setting(
        None, "initial standard deviation; empty takes it from the distance to the neighbours", low=1e-5, high=10
    )


@dataclass(frozen=True)
class Optimization:
    """Adam's learning rates (paper, appendix A.1; position and colour from the released code)."""

    lr_means: float = setting(1.6e-4, "positions, at the start", low=0, high=1)
    lr_means_final: float = setting(1.6e-6, "positions, at the last iteration (exponential decay)", low=0, high=1)
    lr_sh0: float = setting(0.005, "colours, at the start", low=0, high=1)
    lr_sh0_final: float = setting(0.003, "colours, at the last iteration (exponential decay)", low=0, high=1)
    lr_opacities: float = setting(0.05, "opacities (logit)", low=0, high=1)
    lr_scales: float = setting(0.005, "scales (log)", low=0, high=1)
    lr_quats: float = setting(0.001, "rotations", low=0, high=1)
    beta1: float = setting(0.9, "Adam's beta_1", low=0, high=0.9999)
    beta2: float = setting(0.99, "Adam's beta_2", low=0, high=0.999999)


@dataclass(frozen=True)
class Densification:
    """Adaptive density control: gsplat's default strategy, fed by every view of the batch."""

    enabled: bool = setting(True, "densify, prune and reset opacity")
    start: int = setting(100, "first iteration", low=0, high=1_000_000)
    stop: int = setting(1500, "last iteration", low=0, high=1_000_000)
    every: int = setting(100, "iterations between two refinements", low=1, high=1_000_000)
    grad_threshold: float = setting(
        7.5e-4, "mean image-plane gradient above which a Gaussian is duplicated or split", low=0, high=1e6
    )
    prune_opacity: float = setting(0.005, "Gaussians below this opacity are removed", low=0, high=1)
    reset_every: int = setting(300, "iterations between two opacity resets; 0 never resets", low=0, high=1_000_000)
    max_count: int = setting(1_000_000, "no more Gaussians than this", low=10, high=10_000_000)


@dataclass(frozen=True)
class Losses:
    """What the latent gradient is worth and what is added to it."""

    distillation: float = setting(0.1, "factor of the distillation gradient (released: lambda_guidance)", low=0, high=1e6)
    depth_ratio: float = setting(
        0.2, "share of iterations in which the depth is guided (released: as_latent_ratio)", low=0, high=1
    )
    geometry_iterations: int = setting(
        0, "iterations at the start that guide the depth alone and leave the colours (Fantasia3D's order)", low=0, high=1_000_000
    )
    hold_geometry: bool = setting(
        False, "after geometry_iterations, guide the colours alone and leave positions, sizes, rotations and opacities"
    )
    tv_color: float = setting(1.0, "total variation of the rendered colour", low=0, high=1e6)
    tv_depth: float = setting(1.0, "total variation of the rendered depth", low=0, high=1e6)
    scale: float = setting(1.0, "mean scale of the Gaussians", low=0, high=1e6)


@dataclass(frozen=True)
class Weights:
    """How the diffusion model's weights are read and what is added to them."""

    precision: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto", "auto: bfloat16 on CUDA and on CPUs with matrix units for it, else float32; SDXL's own VAE never runs in float16"
    )
    vae: str = setting("", "another VAE: a folder, a hub id or a .safetensors file; empty takes the model's own")
    loras: str = setting("", "LoRA .safetensors files, comma-separated, each with @SCALE behind it where that is not 1")
    prediction: Literal["auto", "epsilon", "v_prediction"] = setting(
        "auto", "what the network of a single .safetensors file predicts; auto looks into the file"
    )


NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, oversaturation."
RELEASED_RULES: dict[str, Any] = {  # where the released code departs from the paper or decides what it leaves open
    "variants.mu_rule": "released",
    "variants.inversion_start": "noised",
    "variants.max_inversion_steps": 5,
    "variants.delta_s": 200,
    "variants.delta_t_start": 100,
    "variants.depth_clip_rule": "released",
    "variants.weight": "released",
    "timesteps.rule": "released",
    "timesteps.t_min": 20,
    "timesteps.t_max": 500,
    "timesteps.t_max_start": 980,
    "views.widen_rule": "released",
    "prompting.negative_prompt": NEGATIVE,
    "prompting.inversion_prompt": "",
    "prompting.empty": "text",
    "initialization.keep_colors": False,
    "losses.depth_ratio": 0.2,
    "losses.tv_color": 1.0,
    "losses.tv_depth": 1.0,
    "losses.scale": 1.0,
}
RELEASED_ANNEALING = 0.3  # of the iterations: 750 of 2500


@dataclass(frozen=True)
class Settings:
    """A whole run. ``Settings()`` is the paper's; presets and overrides change single fields."""

    description: str = setting("", "what a preset is for, in a sentence")
    prompt: str = setting("", "what to make, in words")
    model: str = setting("auto", "auto, embedded, or a diffusers folder, hub id or single .safetensors file")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to run; auto takes CUDA where there is a card")
    cards: int | None = setting(
        None, "CUDA cards that share a run's pictures and predictions; empty: every idle one for a large model", low=1, high=64
    )
    iterations: int = setting(2500, "training iterations", low=1, high=1_000_000)
    seed: int = setting(0, "seed of every random draw of the run", low=0, high=2**31 - 1)
    variants: tuple[Variant, ...] = field(
        default=(Variant(method="ism"), Variant(method="tsm")),
        metadata={
            "help": "one to four sides that share views, backgrounds, timesteps and noise",
            "low": 1,
            "high": 4,
            "unit": "",
        },
    )
    weights: Weights = field(default_factory=Weights)
    checkpoint_every: int = setting(250, "iterations between two checkpoints; 0 writes only the last", low=0, high=1_000_000)
    particles: Particles = field(default_factory=Particles)
    timesteps: Timesteps = field(default_factory=Timesteps)
    views: Views = field(default_factory=Views)
    prompting: Prompting = field(default_factory=Prompting)
    initialization: Initialization = field(default_factory=Initialization)
    optimization: Optimization = field(default_factory=Optimization)
    densification: Densification = field(default_factory=Densification)
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pairs(self)

    def released(self) -> Settings:
        """The same run with every rule the released code's (README's table); see ``with_rules``."""
        return self.with_rules("released")

    def with_rules(self, rules: Rule) -> Settings:
        """The same run with every rule the paper's or the released code's, and the numbers that belong to the rules.

        What is a matter of the model and the machine stays: resolution, counts, learning rates, clipping thresholds. So
        does a negative prompt that is not empty, under the released rules.
        """
        if rules == "paper":
            return self.override({name: _default(name) for name in (*RELEASED_RULES, "timesteps.anneal_iterations")})
        changes = RELEASED_RULES | {"timesteps.anneal_iterations": round(RELEASED_ANNEALING * self.iterations)}
        if self.prompting.negative_prompt:
            changes["prompting.negative_prompt"] = self.prompting.negative_prompt
        return self.override(changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Settings from plain values, as YAML and JSON give them. Raises SettingsError with a sentence."""
        return _build(cls, values, "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, complete: ``Settings.from_dict(s.to_dict()) == s``."""
        plain = dataclasses.asdict(self)
        plain["variants"] = list(plain["variants"])
        return plain

    def override(self, changes: dict[str, Any]) -> Settings:
        """A copy with dotted keys changed: {'views.batch': 2, 'variants.1.gamma': 0.5, 'variants.gamma': 0.3}.

        ``variants.NAME`` without an index changes every side.
        """
        values = self.to_dict()
        for key, value in changes.items():
            _assign(values, key, value)
        return Settings.from_dict(values)


def load_preset(name: str) -> Settings:
    """The preset of that name in ``presets/``, or SettingsError with the names there are."""
    return Settings.from_dict(_read_preset(name, ()))


def preset_names() -> list[str]:
    """Names of the presets that ship with the project, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_settings(path: Path) -> Settings:
    """Settings from a YAML file (plain tags only), on top of the preset it ``extends``, if any. Raises SettingsError."""
    return Settings.from_dict(_read_settings(path, ()))


def check_ranges(section: Any, path: str = "") -> None:
    """Refuse values outside the declared ranges, NaN and infinities. Raises SettingsError."""
    for item in fields(section):
        value, name = getattr(section, item.name), f"{path}{item.name}"
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
            continue
        low: Any = item.metadata.get("low")
        high: Any = item.metadata.get("high")
        if isinstance(value, tuple):
            if not low <= len(value) <= high:
                raise SettingsError(f"{name} has {len(value)} entries; {low} to {high} are accepted.")
            for index, entry in enumerate(value):
                check_ranges(entry, f"{name}.{index}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            bounds = f"{low:g} to {high:g}" if low is not None and high is not None else "a finite number"
            unit = f" {item.metadata['unit']}" if item.metadata.get("unit") else ""
            if not math.isfinite(value):
                raise SettingsError(f"{name} is {value}, which is not a number; {bounds}{unit} is accepted.")
            if (low is not None and value < low) or (high is not None and value > high):
                raise SettingsError(f"{name} is {value:g}; {bounds}{unit} is accepted.")
        elif isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise SettingsError(f"{name} has {len(value):,} characters; at most {LONGEST_TEXT:,} are accepted.")


def check_pairs(settings: Settings) -> None:
    """Refuse ranges whose ends are the wrong way round and choices that lack their companion. Raises SettingsError."""
    views, steps = settings.views, settings.timesteps
    for low, high in (
        ("radius_min", "radius_max"),
        ("start_radius_min", "start_radius_max"),
        ("fovy_min_deg", "fovy_max_deg"),
        ("start_fovy_min_deg", "fovy_max_deg"),
        ("elevation_min_deg", "elevation_max_deg"),
    ):
        if None not in (getattr(views, low), getattr(views, high)) and getattr(views, low) > getattr(views, high):
            raise SettingsError(
                f"views.{low} is {getattr(views, low):g}, above views.{high} = {getattr(views, high):g}; it must not be larger."
            )
    if not steps.t_min <= steps.t_max <= steps.t_max_start:
        raise SettingsError(
            f"timesteps.t_min, t_max, t_max_start are {steps.t_min}, {steps.t_max}, {steps.t_max_start}; they must not fall."
        )
    if settings.initialization.shape == "file" and not settings.initialization.file:
        raise SettingsError("initialization.shape is 'file' but initialization.file is empty; name a .ply, .splat, .glb or .obj.")


def leaf_fields(section: type = Settings, path: str = "") -> list[tuple[str, dataclasses.Field]]:
    """Every single setting with its dotted name, in order: what help pages and sliders are made from."""
    hints, found = typing.get_type_hints(section), []
    for item in fields(section):
        kind = hints[item.name]
        if is_dataclass(kind):
            found += leaf_fields(typing.cast(type, kind), f"{path}{item.name}.")
        elif item.name == "variants":
            found += leaf_fields(Variant, f"{path}variants.")
        else:
            found.append((f"{path}{item.name}", item))
    return found


def _default(name: str) -> Any:
    return next(item.default for path, item in leaf_fields() if path == name)


def parse_value(text: str) -> Any:
    """A value typed on a command line, read as plain YAML ('0.3', 'off', 'null', 'a word')."""
    try:
        return yaml.safe_load(text) if text.strip() else text
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _read_preset(name: Any, above: tuple[str, ...]) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise SettingsError(f"There is no preset {_shown(name)}{_nearest(str(name), names)}; presets: {', '.join(names)}.")
    if name in above:
        raise SettingsError(f"Preset {name} extends itself; the chain of 'extends' must end.")
    return _read_settings(PRESETS / f"{name}.yaml", (*above, name))


def _read_settings(path: Path, above: tuple[str, ...]) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingsError(f"The settings file {path.name} is larger than {LARGEST_FILE:,} bytes, which no run needs.")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path.name} cannot be read: {error}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"The settings file {path.name} is not plain YAML: {str(error).splitlines()[0]}.") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise SettingsError(f"The settings file {path.name} holds {_shown(values)}; settings (name: value) are accepted.")
    if "extends" in values:
        base = _read_preset(values.pop("extends"), above)
        return _merge(base, values)
    return values


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _build(cls: type, values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        where = path.rstrip(".") or "the settings"
        raise SettingsError(f"{where} is {_shown(values)}; a group of settings (name: value) is accepted.")
    known = {item.name: item for item in fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in known:
            raise SettingsError(f"{path}{_shown(key, quotes=False)} is not a setting{_nearest(str(key), list(known))}.")
    return cls(**{key: _convert(hints[key], value, f"{path}{key}") for key, value in values.items()})


def _convert(kind: Any, value: Any, name: str) -> Any:
    if is_dataclass(kind):
        return _build(typing.cast(type, kind), value, f"{name}.")
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"{name} is {_shown(value)}; a list is accepted.")
        return tuple(_convert(choices[0], entry, f"{name}.{index}") for index, entry in enumerate(value))
    if origin is Literal:
        if value not in choices:
            raise SettingsError(f"{name} is {_shown(value)}; accepted: {', '.join(choices)}.")
        return value
    if origin is types.UnionType:  # X | None; YAML's off and null both mean "not used"
        if value is None or value is False:
            return None
        return _convert(choices[0], value, name)
    number: float | None = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            number = float(value)
    if kind in (int, float) and number is not None:
        if 2**63 < abs(number) < math.inf:  # a whole number beyond what a float or a message can hold
            raise SettingsError(f"{name} is {_shown(number)}, which is too large a number.")
        if kind is float:
            return float(number)
        if not math.isfinite(number):
            raise SettingsError(f"{name} is {number}, which is not a number that can be used.")
        if float(number).is_integer():
            return int(number)
    if (kind is str and isinstance(value, str)) or (kind is bool and isinstance(value, bool)):
        return value
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    raise SettingsError(f"{name} is {_shown(value)}; {wanted} is accepted.")


def _assign(values: Any, key: str, value: Any, path: str = "") -> None:
    """Set one dotted key of plain values in place; ``path`` is what has been walked already."""
    head, _, rest = key.partition(".")
    shown = _shown(path + key, quotes=False)
    if isinstance(values, list):
        if not head.isdecimal():
            for entry in values:
                _assign(entry, key, value, path)
            return
        if int(head[:9]) >= len(values):
            raise SettingsError(f"{shown} does not exist; this run has {len(values)} side(s), counted from 0.")
        if not rest:
            raise SettingsError(f"{shown} needs the name of a setting behind it, for example {shown}.gamma.")
        _assign(values[int(head)], rest, value, f"{path}{head}.")
        return
    if not isinstance(values, dict):
        raise SettingsError(f"{shown} is not a setting; it would be a part of {_shown(values)}.")
    if head not in values:
        near = [path + name for name in difflib.get_close_matches(head, list(values), n=1, cutoff=0.5)]
        near += [name for name, _ in leaf_fields() if name.rpartition(".")[2] == key]
        raise SettingsError(f"{shown} is not a setting{f' (did you mean {near[0]}?)' if near else ''}.")
    if not rest:
        values[head] = value
    elif isinstance(values[head], (dict, list)):
        _assign(values[head], rest, value, f"{path}{head}.")
    else:
        raise SettingsError(f"{shown} is not a setting; {path}{head} has no parts.")


def _nearest(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def _shown(value: Any, quotes: bool = True) -> str:
    """A value as a message shows it, short; never walks far into what a small YAML file can unfold to."""
    try:
        text = reprlib.repr(value) if quotes or not isinstance(value, str) else value
    except ValueError:  # Python refuses to print a whole number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
