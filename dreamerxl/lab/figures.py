"""The paper's figures by name, each made by one call: ``python -m dreamerxl figure NAME --out DIR``.

    2, blue       what is measured on a scene that was grown for it
    3, proposition, modes    the toys, which need no model
    6, 7          ablations: the offset rate gamma; gradient clipping on and off
A figure is a picture with the numbers behind it and the settings that gave it. Those that grow scenes take a trainer from
``make_trainer`` and step it themselves, so whoever calls owns the model meanwhile (a run manager's worker does).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dreamerxl.config import Settings, Variant
from dreamerxl.errors import SettingsError
from dreamerxl.files import replacing
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import FrozenSplats, activate, freeze
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.lab.modes import ModesSettings, coverage, distil_particles, four_modes
from dreamerxl.lab.plot import COLORS, Panel, boxed, limits, page
from dreamerxl.lab.probe import probe, probe_cameras, spread
from dreamerxl.lab.toy import ToySettings, try_proposition
from dreamerxl.lab.toy_figures import figure_3, proposition_figure
from dreamerxl.runs.drawing import GREY, INK, LINE, WHITE, camera, extent, fitted, font_for, orbit, pictures
from dreamerxl.runs.marks import take_marks
from dreamerxl.runs.snapshot import INFERNO, PICTURES, color_map, take_sides
from dreamerxl.runs.worker import MakeTrainer

GAMMAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
TILE = 176  # pixels
AZIMUTHS_DEG = (30.0, 150.0, 270.0)
MARGIN, GAP, NAMES = 24, 8, 150
SIDES = 4  # that one run can have
T_SHOWN = 500  # of Figure 2
TIMES = (200, 350, T_SHOWN, 650, 800)
INSIDE = 0.5  # disparity of pixels that the background does not shine through
COLUMNS = {"depth": "depth", "x0_hat": "pseudo ground truth", "gradient": "gradient", "clipped": "clipped"}


@dataclass(frozen=True)
class Figure:
    """A picture (its bytes and suffix), the numbers behind it, and the settings that gave it."""

    name: str
    title: str
    suffix: str  # .svg or .png
    content: bytes
    data: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> list[Path]:
        """figure-NAME.svg (or .png) and figure-NAME.json in a folder. Raises RunFolderError where it cannot be written."""
        picture, numbers = folder / f"figure-{self.name}{self.suffix}", folder / f"figure-{self.name}.json"
        with replacing(picture) as temporary:
            temporary.write_bytes(self.content)
        with replacing(numbers) as temporary:
            told = {"figure": self.name, "title": self.title, "data": self.data, "settings": self.settings}
            temporary.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return [picture, numbers]


def figure_of_toy(settings: ToySettings) -> Figure:
    """Figure 3 for any t, s, mu and delta_S."""
    svg, data = figure_3(settings)
    return Figure("3", "The error of the approximated x_0", ".svg", svg.encode(), data, asdict(settings))


def toy(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    return figure_of_toy(ToySettings(delta_s=settings.variants[-1].delta_s, seed=settings.seed))


def proposition(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    variant = settings.variants[-1]
    ts = tuple(t for t in range(100, 1000, 50) if t > variant.delta_t)
    if not ts:
        raise SettingsError(
            f"delta_T is {variant.delta_t}; Proposition 1 is measured up to t = 950 and needs s = t - delta_T > 0."
        )
    found = try_proposition(ts, delta_t=variant.delta_t, delta_s=variant.delta_s, seed=settings.seed)
    svg, data = proposition_figure(found)
    return Figure("proposition", "Proposition 1, measured", ".svg", svg.encode(), data)


def modes(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    """SDS and VSD in the plane, beside the target."""
    target = four_modes()
    drawn = target.sample(256, torch.Generator().manual_seed(settings.seed))
    clouds = {"the target": drawn}
    for method in ("sds", "vsd"):
        say(f"Moving 256 particles by {method.upper()}.")
        clouds[method.upper()] = distil_particles(target, ModesSettings(method=method, seed=settings.seed))
    panels, data = [], {}
    for (name, points), color in zip(clouds.items(), ("#888888", COLORS[1], COLORS[0]), strict=True):
        found = coverage(target, points)
        shares = " ".join(f"{share:.2f}" for share in found.shares)
        panel = Panel(name, (-1.8, 1.8), (-1.8, 1.8), note=f"shares {shares}")
        panel.dots(points[:, 0].tolist(), points[:, 1].tolist(), color)
        panels.append(boxed(panel))
        data[name] = {"shares": found.shares, "spread": found.spread, "points": points.tolist()}
    caption = (
        "256 particles that all start in the middle, moved by the exact prediction of a target with four modes of weight 0.4, "
        "0.3, 0.2 and 0.1. 'shares' are those of the particles nearest to each mode."
    )
    svg = page("SDS seeks one place, VSD shares out the modes", [panels], caption)
    return Figure("modes", "SDS and VSD in the plane", ".svg", svg.encode(), data)


def noises(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    """Figure 2: one scene, t and prompt, four noises: the pseudo ground truths of SDS, ISM and TSM, and their spread.

    ISM and TSM step to x_t from the same x_s by the same prediction, so their pseudo ground truths x0_hat(x_t, t) are equal
    to the bit, whatever mu is. What their gradients point to, x_0 - sqrt((1 - alpha_t) / alpha_t) (eps_t - eps_reference), does
    differ, and is shown below; for SDS the two are the same.
    """
    base = settings.variants[-1]
    grown, _ = grow(replace(settings, variants=(replace(base, method="tsm"),)), make_trainer, say)
    variants = (replace(base, method="sds"), replace(base, method="ism"), replace(base, method="tsm"))
    say("Asking the methods about the scene.")
    prepared = make_trainer(replace(settings, variants=variants), say)
    trainer: Any = prepared.trainer
    for side in trainer.sides:
        side.params = grown.sides[0].params
    cameras = probe_cameras(settings.views.resolution, settings.views.fovy_max_deg, AZIMUTHS_DEG[:1])
    found = {t: probe(trainer, cameras, t) for t in TIMES}
    shown = T_SHOWN
    scene = _seen(grown.sides[0].params, cameras)
    rows, data = [], {}
    for what, latents in (
        ("", [answers.x0_hats for answers in found[shown]]),
        (": target", [answers.targets for answers in found[shown]]),
    ):
        for index, variant in enumerate(variants):
            if what and variant.method == "sds":  # shown already
                continue
            decoded = [as_picture(prepared.decode(x)[0]) for x in latents[index]]
            detail = f"spread {spread(latents[index]):.3f}"
            rows.append((name_of(variant) + what, detail, [scene, *decoded, _deviation(decoded)]))
    for index, variant in enumerate(variants):
        data[name_of(variant)] = [
            {
                "pseudo ground truth": found[t][index].spread,
                "target": found[t][index].target_spread,
                "gradient": found[t][index].gradient_spread,
            }
            for t in found
        ]
    columns = ["the scene", *(f"noise {k + 1}" for k in range(len(rows[0][2]) - 2)), "deviation x 4"]
    subtitle = (
        f"{settings.prompt} · t = {shown} · {prepared.model} · seed {settings.seed} · above: x̂0 at x_t, the same for ISM and "
        "TSM; below: where their gradients point"
    )
    picture = sheet("Figure 2: pseudo ground truths under four noises", subtitle, columns, rows)
    numbers = {"t": list(found), "spreads": data}
    return Figure("2", "Pseudo ground truths under four noises", ".png", picture, numbers, settings.to_dict())


def offsets(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    """Figures 6, 10 and 11: TSM at seven offset rates, everything else shared."""
    base = replace(settings.variants[-1], method="tsm")
    scenes: list[FrozenSplats] = []
    judge, model = None, ""
    for start in range(0, len(GAMMAS), SIDES):
        variants = tuple(replace(base, gamma=gamma) for gamma in GAMMAS[start : start + SIDES])
        trainer, prepared = grow(replace(settings, variants=variants), make_trainer, say)
        scenes += [freeze(side.params) for side in trainer.sides]
        judge, model = prepared.judge, prepared.model
    reach = extent(scenes)
    rows = []
    for azimuth in AZIMUTHS_DEG:
        seen = camera(reach, azimuth, 15.0, TILE, TILE)
        rows.append((f"{azimuth:g}°", "", [next(pictures(splats, seen)) for splats in scenes]))
    marks = take_marks(scenes, judge)
    said = [f" · judge {mark['judge']:.2f}" if "judge" in mark else "" for mark in marks]
    columns = [f"γ {gamma:g}{text}" for gamma, text in zip(GAMMAS, said, strict=True)]
    rule = {"paper": "μ = s + γ (t − s)", "released": "μ = s + √(1 − γ²) (t − s)"}[base.mu_rule]
    subtitle = f"{settings.prompt} · {rule} · {settings.iterations} iterations · {model} · seed {settings.seed}"
    data = {"gammas": GAMMAS, "marks": marks, "mu_rule": base.mu_rule}
    picture = sheet("Figure 6: the offset rate", subtitle, columns, rows)
    return Figure("6", "The offset rate", ".png", picture, data, settings.to_dict())


def clipping(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    """Figures 7, 12, 13 and 14: the last side with and without gradient clipping, densified, its depth guided now and then."""
    on = settings.variants[-1]
    on = replace(on, clip_color=on.clip_color or 0.05, clip_depth=on.clip_depth or 0.01)
    off = replace(on, clip_color=None, clip_depth=None)
    changes: dict[str, Any] = {"densification.enabled": True}
    if settings.losses.depth_ratio == 0:
        changes["losses.depth_ratio"] = 0.2
    settings = replace(settings.override(changes), variants=(off, on))
    counts: list[list[int]] = []
    norms: list[list[float]] = []

    def watch(report: Any, prepared: Any) -> None:
        counts.append([side.count for side in report.sides])
        norms.append([side.grad_norm for side in report.sides])
        if not report.draw.depth or not seen:
            seen[:] = [report]  # the latest that guided the colour

    seen: list[Any] = []
    trainer, prepared = grow(settings, make_trainer, say, watch)
    names = ("without clipping", "with clipping")
    snapshots = take_sides(trainer.sides, seen[-1], names, prepared.decode)
    turn = orbit([side.splats for side in snapshots], 4, TILE)
    rows = []
    for side in snapshots:
        turned = list(pictures(side.splats, turn))[:2]
        detail = f"{len(side.splats.means):,} Gaussians\n|g| {side.metrics['grad_norm']:.3g}"
        rows.append((side.label, detail, [*turned, *side.pictures[1:]]))
    columns = ["front", "left", *(COLUMNS[name] for name in PICTURES[1:])]
    subtitle = (
        f"{settings.prompt} · thresholds {on.clip_color:g} (colour), {on.clip_depth:g} (depth, {on.depth_clip_rule} rule) · "
        f"{settings.iterations} iterations · {prepared.model} · seed {settings.seed}"
    )
    data = {"sides": names, "Gaussians": counts, "gradient norm": norms}
    picture = sheet("Figure 7: gradient clipping", subtitle, columns, rows)
    return Figure("7", "Gradient clipping off and on", ".png", picture, data, settings.to_dict())


def blue(settings: Settings, make_trainer: MakeTrainer, say: Say) -> Figure:
    """Appendix A.6: the mean of each channel, well inside the object, of what a side renders, of the same after the
    VAE's way there and back, and of the pseudo ground truth, as it grows."""
    settings = replace(settings, variants=settings.variants[-1:])
    every = max(settings.iterations // 25, 1)
    kinds = ("render", "through the VAE", "pseudo ground truth")
    means: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    iterations: list[int] = []

    @torch.no_grad()
    def watch(report: Any, prepared: Any) -> None:
        if (report.iteration + 1) % every or report.draw.depth:
            return
        side = report.sides[0]
        covered = (side.disparity[0] > INSIDE).float()
        if covered.sum() < 20:
            return
        image = side.render.movedim(-1, 1)
        decoded = [prepared.decode(x) for x in (prepared.trainer.guidance.encode(image), side.x0_hat)]
        iterations.append(report.iteration + 1)
        for kind, picture in zip(kinds, (image, *decoded), strict=True):
            size = (picture.shape[-2], picture.shape[-1])
            mask = torch.nn.functional.interpolate(covered[None, None], size, mode="area")[0, 0] > 0.5
            means[kind].append(picture[0][:, mask].mean(1).tolist())

    _, prepared = grow(settings, make_trainer, say, watch)
    if not iterations:
        raise SettingsError("No iteration showed an object of 20 pixels; more iterations are needed to measure its colours.")
    panels = []
    low, high = limits([value for values in means.values() for entry in values for value in entry])
    for kind, values in means.items():
        excess = np.mean([entry[2] - (entry[0] + entry[1]) / 2 for entry in values[len(values) // 2 :]])
        note = f"blue over the others: {excess:+.3f}"
        panel = Panel(kind, (0, settings.iterations), (low, high + 0.3 * (high - low)), x_label="iteration", note=note)
        for channel, color in enumerate(("#d1495b", "#3a7d44", "#1b6ca8")):
            panel.line(iterations, [entry[channel] for entry in values], color)
        panel.legend([("red", "#d1495b"), ("green", "#3a7d44"), ("blue", "#1b6ca8")])
        panels.append(boxed(panel))
    caption = (
        f"{settings.prompt}; {name_of(settings.variants[0])}; {prepared.model}; seed {settings.seed}. Means over the pixels well "
        "inside the object, colours in 0..1, one view of every iteration shown. 'blue over the others' is blue less the mean of "
        "red and green, over the second half. A cast that comes from the VAE shows between the first two; one that comes "
        "from the network in the third."
    )
    svg = page("Appendix A.6: the channels", [panels], caption)
    return Figure(
        "blue", "The blue cast, measured", ".svg", svg.encode(), {"iterations": iterations, **means}, settings.to_dict()
    )


FIGURES: dict[str, tuple[str, Callable[[Settings, MakeTrainer, Say], Figure]]] = {
    "2": ("pseudo ground truths of one scene under four noises", noises),
    "3": ("the 2-D toy: the error of the approximated x_0", toy),
    "6": ("the offset rate from 0 to 1 under one seed (also Figures 10, 11)", offsets),
    "7": ("gradient clipping off and on, with depth and gradients (also Figures 12 to 14)", clipping),
    "proposition": ("Proposition 1 measured over t and gamma", proposition),
    "modes": ("SDS and VSD on a target with four modes", modes),
    "blue": ("the channels of renders, VAE and pseudo ground truths (Appendix A.6)", blue),
}
TOYS = ("3", "proposition", "modes")  # need no model


def make_figure(name: str, settings: Settings, make_trainer: MakeTrainer, say: Say = silent) -> Figure:
    """A figure by name. Raises DreamerError with a sentence."""
    if name not in FIGURES:
        raise SettingsError(f"There is no figure {name[:40]!r}; figures: {', '.join(FIGURES)}.")
    return FIGURES[name][1](settings, make_trainer, say)


def grow(
    settings: Settings,
    make_trainer: MakeTrainer,
    say: Say,
    watch: Callable[[Any, Any], None] = lambda report, prepared: None,
) -> tuple[Any, Any]:
    """(trainer, prepared) after all iterations. ``watch`` sees each report, and what was prepared."""
    prepared = make_trainer(settings, say)
    trainer: Any = prepared.trainer
    while trainer.iteration < settings.iterations:
        report = trainer.step()
        watch(report, prepared)
        say(f"Growing {', '.join(map(name_of, settings.variants))}: {trainer.iteration} of {settings.iterations} iterations.")
    return trainer, prepared


def sheet(title: str, subtitle: str, columns: Sequence[str], rows: Sequence[tuple[str, str, Sequence[np.ndarray]]]) -> bytes:
    """A PNG with pictures in rows: each row a name, a few lines about it, and its pictures [H, W, 3] uint8."""
    width = 2 * MARGIN + NAMES + len(columns) * (TILE + GAP)
    top = 104
    image = Image.new("RGB", (width, top + len(rows) * (TILE + GAP) + MARGIN), WHITE)
    draw = ImageDraw.Draw(image)
    for text, size, color, base in ((title, 24, INK, 42), (subtitle, 14, GREY, 68)):
        text = fitted(text, size, width - 2 * MARGIN)
        draw.text((MARGIN, base), text, color, font_for(text, size), anchor="ls")
    lefts = [MARGIN + NAMES + index * (TILE + GAP) for index in range(len(columns))]
    for left, text in zip(lefts, columns, strict=True):
        text = fitted(text, 13, TILE)
        draw.text((left + TILE / 2, top - 8), text, GREY, font_for(text, 13), anchor="ms")
    for row, (name, detail, tiles) in enumerate(rows):
        y = top + row * (TILE + GAP)
        draw.text((MARGIN, y + TILE / 2 - 14), fitted(name, 17, NAMES - 8), INK, font_for(name, 17), anchor="ls")
        for line, text in enumerate(detail.split("\n")):
            draw.text((MARGIN, y + TILE / 2 + 8 + 18 * line), text, GREY, font_for(text, 13), anchor="ls")
        for left, tile in zip(lefts, tiles, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(tile)).resize((TILE, TILE), Image.Resampling.BICUBIC)
            image.paste(picture, (left, y))
            draw.rectangle((left, y, left + TILE - 1, y + TILE - 1), outline=LINE)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def name_of(variant: Variant) -> str:
    """A side's name: 'TSM γ 0.3'."""
    return f"TSM γ {variant.gamma:g}" if variant.method == "tsm" else variant.method.upper()


def as_picture(image: torch.Tensor) -> np.ndarray:
    """[3, H, W] in 0..1 as uint8 [H, W, 3]."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()


@torch.no_grad()
def _seen(params: Any, cameras: Any) -> np.ndarray:
    means = params["means"]
    cameras = cameras.to(means.device)
    white = torch.ones(1, 3, device=means.device)
    render = rasterize(activate(params), cameras.viewmats[:1], cameras.Ks[:1], cameras.width, cameras.height, white)
    return as_picture(render.rgb[0].movedim(-1, 0))


def _deviation(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation over pictures, all channels together, four times as bright as it is."""
    apart = np.stack(pictures).astype(np.float32) / 255
    return color_map(4 * np.sqrt(((apart - apart.mean(0)) ** 2).mean((0, -1))), INFERNO)
