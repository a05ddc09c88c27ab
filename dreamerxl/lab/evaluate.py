"""Scores of runs, side by side, as in Table 1: ``python -m dreamerxl evaluate RUN...``.

    CLIP-L/14, OpenCLIP-L/14     cosine of prompt and renders, higher is better
    A-LPIPS VGG, A-LPIPS Alex    LPIPS between neighbouring views, lower is better
    judge                        the embedded model's judge: a small CLIP of its own world, higher is better; not the paper's
    judge distance               1 - cosine of the judge's embeddings of neighbouring views, lower is better; not the paper's
    pixel distance               root mean square difference of neighbouring views, lower is better; not the paper's
Renders are on white, evenly around the object, 15 degrees above it. The paper gives neither the number of views nor their
size; a distance of neighbours depends on both, so compare only what was measured alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from dreamerxl.errors import WeightsError
from dreamerxl.files import replacing
from dreamerxl.guidance.hub import Say, silent
from dreamerxl.lab.clip_score import NAMES, load_clip
from dreamerxl.lab.lpips import Net, load_lpips, neighbour_distance
from dreamerxl.runs.capture import run_sides
from dreamerxl.runs.drawing import orbit, pictures
from dreamerxl.runs.run import read_run

Metric: TypeAlias = Callable[[np.ndarray, str], "float | None"]  # renders [V, H, W, 3] uint8 of a turn, prompt

VIEWS, SIZE = 24, 256
NETS: dict[Net, str] = {"vgg": "A-LPIPS VGG", "alex": "A-LPIPS Alex"}
EMBEDDED = ("judge", "judge distance", "pixel distance")
ALL = (*NAMES.values(), *NETS.values(), *EMBEDDED)
HIGHER = {*NAMES.values(), "judge"}  # is better


@dataclass(frozen=True)
class Scores:
    """What was found for one side of a run."""

    run: Path
    side: str
    prompt: str
    values: dict[str, float | None]


def make_metrics(
    wanted: Sequence[str] = ALL, lpips_folder: Path | None = None, say: Say = silent, *, download: bool = False
) -> tuple[dict[str, Metric], list[str]]:
    """The metrics that can be had, by name, and a sentence for each whose weights are absent."""
    metrics: dict[str, Metric] = {}
    absent: list[str] = []
    for name in wanted:
        try:
            metrics[name] = make_metric(name, lpips_folder, say, download)
        except WeightsError as error:
            absent.append(f"{name} is left out. {error}")
    return metrics, absent


def make_metric(name: str, lpips_folder: Path | None, say: Say, download: bool) -> Metric:
    """One of ALL. Raises WeightsError where its weights are absent."""
    for key, clip_name in NAMES.items():
        if name == clip_name:
            return load_clip(key, say, download=download).score
    for net, lpips_name in NETS.items():
        if name == lpips_name:
            model = load_lpips(net, lpips_folder, say, download=download)
            return lambda views, prompt: neighbour_distance(model, as_images(views))
    return {"judge": judge_score, "judge distance": judge_distance, "pixel distance": pixel_distance}[name]


def evaluate_run(folder: Path, metrics: dict[str, Metric], views: int = VIEWS, size: int = SIZE) -> list[Scores]:
    """The scores of every side of a run. Raises DreamerError where the folder holds none."""
    view = read_run(folder, with_curves=False).view
    sides = run_sides(view)
    cameras = orbit([side.splats for side in sides], views, size)
    found, prompt = [], view.settings.prompt
    for side in sides:
        renders = np.stack(list(pictures(side.splats, cameras)))
        found.append(Scores(folder, side.label, prompt, {name: metric(renders, prompt) for name, metric in metrics.items()}))
    return found


def table(scores: Sequence[Scores]) -> str:
    """Scores in columns, the best of each run marked."""
    names = list(scores[0].values) if scores else []
    rows = [["run", "side", *(f"{name} {'↑' if name in HIGHER else '↓'}" for name in names)]]
    for entry in scores:
        rivals = [other for other in scores if other.run == entry.run]
        cells = []
        for name in names:
            value = entry.values[name]
            known = [other.values[name] for other in rivals if other.values[name] is not None]
            best = len(known) > 1 and value == (max if name in HIGHER else min)(known)  # pyright: ignore
            cells.append("–" if value is None else f"{value:.4f}{'*' if best else ''}")
        rows.append([entry.run.name, entry.side, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def keep_scores(path: Path, scores: Sequence[Scores], views: int, size: int) -> None:
    """Scores as JSON, with how they were taken. Raises RunFolderError where the file cannot be written."""
    entries = [{"run": str(entry.run), "side": entry.side, "prompt": entry.prompt, "values": entry.values} for entry in scores]
    with replacing(path) as temporary:
        told = {"views": views, "size": size, "scores": entries}
        temporary.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_images(views: np.ndarray) -> torch.Tensor:
    """Renders [V, H, W, 3] uint8 as [V, 3, H, W] in 0..1."""
    return torch.from_numpy(views).movedim(-1, 1).float() / 255


def judge_score(views: np.ndarray, prompt: str) -> float | None:
    """The embedded judge's mean score; None for a prompt with words that it does not know."""
    from dreamerxl.guidance.words import unknown_words
    from dreamerxl.miniature.judge import load_judge

    judge = load_judge()
    return None if unknown_words(judge.tokenizer, prompt) else judge.score(as_images(views), prompt).mean().item()


@torch.no_grad()
def judge_distance(views: np.ndarray, prompt: str) -> float:
    """1 - cosine of the embedded judge's embeddings of neighbouring views, the last's neighbour the first."""
    from dreamerxl.miniature.judge import SIZE as JUDGED
    from dreamerxl.miniature.judge import load_judge

    judge, images = load_judge(), as_images(views)
    small = torch.nn.functional.interpolate(images, (JUDGED, JUDGED), mode="bilinear", align_corners=False, antialias=True)
    embedded = judge.embed_images(judge.features(small))
    return (1 - (embedded * embedded.roll(-1, 0)).sum(1)).mean().item()


def pixel_distance(views: np.ndarray, prompt: str) -> float:
    """Root mean square difference of neighbouring views, colours in 0..1, the last's neighbour the first."""
    images = as_images(views)
    return (images - images.roll(-1, 0)).square().mean().sqrt().item()
