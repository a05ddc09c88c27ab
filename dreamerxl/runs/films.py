"""Films of a run, H.264: a turntable, the growth in time-lapse, and both in a row. Every side is labelled and turns alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.drawing import (
    ELEVATION_DEG,
    GAP,
    GREY,
    INK,
    LINE,
    MARGIN,
    WHITE,
    Caption,
    Side,
    camera,
    draw_header,
    even,
    extent,
    fitted,
    font_for,
    header_height,
    pictures,
)
from dreamerxl.runs.growth import scenes_at
from dreamerxl.runs.metadata import mp4_options

FRAMES_PER_S = 30
TURN = 120  # frames of one turn
MOMENT = 4  # frames that each moment of the growth is held
NARROWEST = 720  # pixels; a prompt needs room
Told = Callable[[int], None]  # is given the number of frames that are done


@dataclass(frozen=True)
class Shot:
    """One frame: a scene for each side, where the camera stands, and a word under the picture."""

    scenes: Sequence[FrozenSplats]
    azimuth_deg: float
    note: str = ""


def turntable(
    sides: Sequence[Side],
    path: Path,
    caption: Caption,
    *,
    frames: int = TURN,
    tile: int = 384,
    on_frame: Told | None = None,
) -> Path:
    """One turn around every side, next to each other, starting at the front."""
    return film(sides, turn(sides, frames), path, caption, tile=tile, on_frame=on_frame)


def growth(
    sides: Sequence[Side],
    folder: Path,
    kept: Sequence[int],
    path: Path,
    caption: Caption,
    *,
    tile: int = 384,
    and_turn: int = 0,
    on_frame: Told | None = None,
) -> Path:
    """The moments ``kept`` in the growth ``folder``, one after the other, while the camera goes round once; then, of the
    scenes as they are now, ``and_turn`` frames of another turn."""

    def shots() -> Iterator[Shot]:
        total = len(kept) * MOMENT
        for place, iteration in enumerate(kept):
            scenes = scenes_at(folder, iteration, len(sides))
            for frame in range(place * MOMENT, (place + 1) * MOMENT):
                yield Shot(scenes, 360 * frame / total, f"iteration {iteration:,}")
        yield from turn(sides, and_turn)

    return film(sides, shots(), path, caption, tile=tile, on_frame=on_frame)


def turn(sides: Sequence[Side], frames: int) -> Iterator[Shot]:
    """The shots of one turn around the scenes of some sides."""
    scenes = [side.splats for side in sides]
    return (Shot(scenes, 360 * frame / frames) for frame in range(frames))


def film(
    sides: Sequence[Side], shots: Iterable[Shot], path: Path, caption: Caption, *, tile: int, on_frame: Told | None = None
) -> Path:
    """A film (yuv420p, even sides) of some shots: the caption above, every side under its name; its comment tag holds the
    caption's metadata. The sides' own scenes set how close the camera stands."""
    page, top, lefts = _page(sides, caption, tile)
    frame = np.array(page)
    reach = extent([side.splats for side in sides])
    height, width = frame.shape[:2]
    options: dict[str, Any] = {"codec": "libx264", "pix_fmt_in": "rgb24", "pix_fmt_out": "yuv420p", "macro_block_size": 2}
    options |= {"quality": None, "output_params": ["-crf", "18", "-movflags", "+faststart", *mp4_options(caption.metadata)]}
    with replacing(path) as temporary:
        writer = imageio_ffmpeg.write_frames(str(temporary), (width, height), fps=FRAMES_PER_S, **options)
        try:
            writer.send(None)
            for index, shot in enumerate(shots):
                seen = camera(reach, shot.azimuth_deg, ELEVATION_DEG, tile, tile)
                for left, splats in zip(lefts, shot.scenes, strict=True):
                    frame[top : top + tile, left : left + tile] = next(pictures(splats, seen))
                frame[top + tile + 2 :] = _foot(shot.note, width, height - top - tile - 2)
                writer.send(frame)
                if on_frame is not None:
                    on_frame(index + 1)
        finally:
            writer.close()
    return path


def _page(sides: Sequence[Side], caption: Caption, tile: int) -> tuple[Image.Image, int, list[int]]:
    """What all frames share, the row of the tiles' upper edges and the columns of their left ones."""
    row = len(sides) * tile + (len(sides) - 1) * GAP
    width = even(max(2 * MARGIN + row, NARROWEST))
    top = header_height() + 40
    page = Image.new("RGB", (width, even(top + tile + MARGIN)), WHITE)
    draw = ImageDraw.Draw(page)
    draw_header(draw, caption, width)
    lefts = [(width - row) // 2 + index * (tile + GAP) for index in range(len(sides))]
    for left, side in zip(lefts, sides, strict=True):
        draw.text((left, top - 12), side.label, INK, font_for(side.label, 20), anchor="ls")
        room = int(tile - font_for(side.label, 20).getlength(side.label) - 20)
        detail = fitted(" · ".join(side.detail.split("\n")), 14, room)
        draw.text((left + tile, top - 12), detail, GREY, font_for(detail, 14), anchor="rs")
        draw.rectangle((left - 1, top - 1, left + tile, top + tile), outline=LINE)
    return page, top, lefts


def _foot(note: str, width: int, height: int) -> np.ndarray:
    foot = Image.new("RGB", (width, height), WHITE)
    ImageDraw.Draw(foot).text((width / 2, height / 2), note, GREY, font_for(note, 15), anchor="mm")
    return np.asarray(foot)
