"""The growth of a run: its scenes at moments spread evenly over the iterations, kept small, for time-lapses and scrubbing.

    growth/0000040-0.spz, growth/0000040-1.spz, ...     one file a side, named by the iterations done
    growth/0000040-0.jpg, ...                           what the side computed then, its pictures in a row
A moment counts once its last side is written; each file appears whole. When there are more than MOST_MOMENTS, or more than
MOST_BYTES, every other one is let go and the stride doubles, so the folder is bounded however long a run goes on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dreamerxl.errors import RunFolderError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.gaussians.spz import read_spz, write_spz

MOST_MOMENTS = 60
MOST_BYTES = 256 * 2**20
NAME = re.compile(r"(\d{7})-(\d)\.spz")
ROW_HEIGHT = 144  # pixels of the pictures in a row
QUICK = 3  # of gzip's levels; the bytes hardly differ


class Growth:
    """Keeps the moments of a run in training. For the thread that trains."""

    def __init__(self, folder: Path, iterations: int, most: int = MOST_MOMENTS, most_bytes: int = MOST_BYTES):
        self.folder, self.most, self.most_bytes = folder, most, most_bytes
        self.stride = max(1, -(-iterations // most))

    def due(self, iteration: int) -> bool:
        """Whether a moment belongs here: the first iteration, and every ``stride``-th."""
        return iteration == 1 or iteration % self.stride == 0

    def keep(self, iteration: int, scenes: Sequence[FrozenSplats], pictures: Sequence[Sequence[np.ndarray]] = ()) -> None:
        """Write the scenes of a moment, with the pictures [H, W, 3] uint8 of each side where there are any, and thin the
        earlier ones out where they have become many. Raises OSError."""
        for index, row in enumerate(pictures):
            _write_row(self.folder / f"{iteration:07d}-{index}.jpg", row)
        for index, splats in enumerate(scenes):
            write_spz(self.folder / f"{iteration:07d}-{index}.spz", splats, QUICK)
        while self._too_much(len(scenes)):
            self.stride *= 2
            for moment in moments(self.folder, len(scenes))[:-1]:
                if not self.due(moment):
                    for path in self.folder.glob(f"{moment:07d}-*"):
                        path.unlink(missing_ok=True)

    def adopt(self, folder: Path, iteration: int) -> None:
        """Take over a moment of the run that this one goes on from. Raises OSError."""
        for path in folder.glob(f"{iteration:07d}-*"):
            shutil.copyfile(path, self.folder / path.name)

    def forget_after(self, iteration: int) -> None:
        """Let go of the moments after an iteration, to which a run went back. Raises OSError."""
        for path in self.folder.glob("*-*"):
            if path.name[:7].isdigit() and int(path.name[:7]) > iteration:
                path.unlink(missing_ok=True)

    def _too_much(self, sides: int) -> bool:
        kept = moments(self.folder, sides)
        if len(kept) <= 3:  # the first, the newest, and one in between always stay
            return False
        size = sum(path.stat().st_size for path in self.folder.glob("*-*"))
        return len(kept) > self.most + 2 or size > self.most_bytes


def moments(folder: Path, sides: int) -> tuple[int, ...]:
    """The iterations at which the scene of every side was kept, ascending."""
    found: dict[int, set[int]] = {}
    for path in folder.glob("*.spz"):
        if match := NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(sorted(iteration for iteration, indices in found.items() if indices >= set(range(sides))))


def scenes_at(folder: Path, iteration: int, sides: int) -> tuple[FrozenSplats, ...]:
    """The scenes of a moment. Raises DreamerError where it was not kept."""
    if iteration not in moments(folder, sides):
        raise RunFolderError(f"Iteration {iteration} of this run was not kept.")
    return tuple(read_spz(folder / f"{iteration:07d}-{index}.spz") for index in range(sides))


def _write_row(path: Path, pictures: Sequence[np.ndarray]) -> None:
    images = [Image.fromarray(picture).resize((ROW_HEIGHT, ROW_HEIGHT), Image.Resampling.BILINEAR) for picture in pictures]
    row = Image.new("RGB", (ROW_HEIGHT * len(images), ROW_HEIGHT))
    for index, image in enumerate(images):
        row.paste(image, (index * ROW_HEIGHT, 0))
    with replacing(path) as temporary:
        row.save(temporary, "JPEG", quality=85)
