"""Marks: what can be said of a whole scene at a moment of its growth, for the curves.

    neighbours  how much the picture changes from one view to the next: the root mean square of the difference of renders
                NEAR_DEG apart, over PAIRS places around the object, colours in 0..1. A scene that shows another object from
                every side scores high, as in the paper's A-LPIPS; no network is asked, so it holds for every model.
    judge       how well the renders fit the prompt, where the model brings a judge of its own
They cost renders, so they are taken with the growth's moments and not in every iteration. growth/marks.jsonl keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerxl.cameras import cameras_at
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.logs import append_line
from dreamerxl.runs.drawing import DISTANCE, ELEVATION_DEG, extent, fitting_fovy_deg, pictures
from dreamerxl.runs.folder import whole_lines

PAIRS = 3
NEAR_DEG = 15.0
SIZE = 128  # pixels of a render
FILE = "marks.jsonl"

Judge = Callable[[np.ndarray], float]  # renders [V, H, W, 3] uint8 of one scene -> score


def take_marks(scenes: Sequence[FrozenSplats], judge: Judge | None = None) -> list[dict[str, float]]:
    """The marks of each scene, all seen by the same cameras."""
    azimuths = np.repeat(np.arange(PAIRS) * 360 / PAIRS, 2) + np.tile([0.0, NEAR_DEG], PAIRS)
    fovy = fitting_fovy_deg(extent(scenes))
    seen = cameras_at(torch.from_numpy(azimuths), ELEVATION_DEG, DISTANCE, fovy, SIZE, SIZE)
    marks = []
    for splats in scenes:
        views = np.stack(list(pictures(splats, seen)))
        apart = (views[0::2].astype(np.float32) - views[1::2]) / 255
        mark = {"neighbours": float(np.sqrt((apart**2).mean()))}
        if judge is not None:
            mark["judge"] = float(judge(views[0::2]))
        marks.append(mark)
    return marks


def append_marks(folder: Path, iteration: int, marks: Sequence[dict[str, float]]) -> None:
    """Add a moment's marks to the growth folder. Raises OSError."""
    append_line(folder / FILE, json.dumps({"iteration": iteration, "sides": list(marks)}))


def read_marks(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines that ``append_marks`` wrote, as far as they are whole."""
    return whole_lines(folder / FILE)
