"""Captures of a run's scenes: a turntable video and a contact sheet, with what was asked written beside them.

Every side is drawn by the same cameras on white. Captures read frozen splats, so any thread may make them.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from dreamerxl.cameras import Cameras, orbit_cameras
from dreamerxl.config import Variant
from dreamerxl.errors import RunFolderError
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import FrozenSplats, thaw
from dreamerxl.hardware import versions
from dreamerxl.runs.folder import RunFolder, replacing, scene_paths
from dreamerxl.runs.run import RunView

DISTANCE = 4.0
ELEVATION_DEG = 15.0
AT_ONCE = 6  # cameras per call of the rasterizer, to bound memory

WHITE, INK, GREY, LINE = (255, 255, 255), (34, 34, 34), (110, 110, 110), (226, 226, 226)
MARGIN, GAP = 36, 12
DIRECTIONS = {0: "front", 90: "left", 180: "back", 270: "right"}
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf")


@dataclass(frozen=True)
class Side:
    """One scene of a capture: its name, what was set for it, and its Gaussians."""

    label: str
    detail: str
    splats: FrozenSplats


@dataclass(frozen=True)
class Caption:
    """What stands above a capture (prompt and settings) and what a PNG carries for programs."""

    title: str
    subtitle: str
    metadata: dict[str, Any]


def capture_run(view: RunView, sides: Sequence[Side] | None = None, *, video: bool = True) -> list[Path]:
    """captures/contact-sheet.png and captures/turntable.mp4 of an ended or paused run; the paths, in that order."""
    sides = run_sides(view) if sides is None else sides
    caption = run_caption(view)
    folder = RunFolder(view.folder).captures
    paths = [contact_sheet(sides, folder / "contact-sheet.png", caption)]
    if video:
        paths.append(turntable(sides, folder / "turntable.mp4", caption))
    return paths


def run_sides(view: RunView) -> list[Side]:
    """The sides of a run's latest snapshot, or of its scenes on disk where the snapshot has been let go."""
    variants = view.settings.variants
    if view.snapshot is not None:
        scenes = [side.splats for side in view.snapshot.sides]
    else:
        scenes = [_read_scene(path) for path in scene_paths(view.folder, variants)]
    return [
        Side(label, side_detail(variant), splats) for label, variant, splats in zip(view.labels, variants, scenes, strict=True)
    ]


def _read_scene(path: Path) -> FrozenSplats:
    if not path.is_file():
        raise RunFolderError(f"There is no scene {path} to capture; the run ended before it had one.")
    scene = read_ply(path)
    if not isinstance(scene, FrozenSplats):
        raise RunFolderError(f"{path} holds points where Gaussians were written.")
    return scene


def side_detail(variant: Variant) -> str:
    """The settings of one side that its method uses, in a line."""
    parts = [f"gamma {variant.gamma:g}"] if variant.method == "tsm" else []
    if variant.method in ("ism", "tsm"):
        parts += [f"delta_T {variant.delta_t}", f"delta_S {variant.delta_s}"]
    parts += [f"clip {variant.clip_color:g}" if variant.clip_color is not None else "no clip"]
    return "\n".join(parts)


def run_caption(view: RunView) -> Caption:
    """Prompt, and the settings that every side shares."""
    settings = view.settings
    scales = sorted({variant.guidance_scale for variant in settings.variants})
    parts = [
        view.model,
        f"{view.iteration} iterations",
        f"{settings.views.batch} views of {settings.views.resolution} px",
        f"guidance {', '.join(f'{scale:g}' for scale in scales)}",
        f"seed {settings.seed}",
    ]
    return Caption(settings.prompt, " · ".join(part for part in parts if part), run_metadata(view))


def run_metadata(view: RunView) -> dict[str, Any]:
    """What repeats the run: settings (with live changes, which are listed too), seed, versions."""
    changes = [{"iteration": event.iteration, **event.details} for event in view.events if event.kind == "changed"]
    return {
        "run": view.id,
        "settings": view.settings.to_dict(),
        "seed": view.settings.seed,
        "changes": changes,
        "model": view.model,
        "iterations": view.iteration,
        "versions": versions(),
    }


def contact_sheet(sides: Sequence[Side], path: Path, caption: Caption, *, views: int = 8, tile: int = 256) -> Path:
    """A PNG with one row a side and ``views`` azimuths; its text chunk 'dreamerxl' holds the caption's metadata."""
    names = 150
    width = MARGIN + names + views * tile + (views - 1) * GAP + MARGIN
    top = _header_height() + 34
    height = top + len(sides) * tile + (len(sides) - 1) * GAP + MARGIN
    sheet = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, caption, width)
    cameras = _orbit(sides, views, tile)
    lefts = [MARGIN + names + index * (tile + GAP) for index in range(views)]
    for left, azimuth in zip(lefts, cameras.azimuth_deg.tolist(), strict=True):
        text = f"{azimuth:g}°  {DIRECTIONS.get(round(azimuth), '')}".strip()
        draw.text((left + tile / 2, top - 14), text, GREY, _font(text, 15), anchor="ms")
    for row, side in enumerate(sides):
        y = top + row * (tile + GAP)
        _draw_side(draw, side, (MARGIN, y + tile // 2 - 44), names - 20)
        for left, picture in zip(lefts, pictures(side.splats, cameras), strict=True):
            sheet.paste(Image.fromarray(picture), (left, y))
            draw.rectangle((left, y, left + tile - 1, y + tile - 1), outline=LINE)
    text = PngInfo()
    text.add_text("dreamerxl", json.dumps(caption.metadata))
    text.add_text("Software", f"dreamerxl {versions()['dreamerxl']}")
    with replacing(path) as temporary:
        sheet.save(temporary, pnginfo=text)
    return path


def turntable(
    sides: Sequence[Side],
    path: Path,
    caption: Caption,
    *,
    frames: int = 120,
    frames_per_s: int = 30,
    tile: int = 384,
    on_frame: Callable[[int], None] | None = None,
) -> Path:
    """An H.264 video (yuv420p, even sides) of one turn around every side, side by side and labelled."""
    row = len(sides) * tile + (len(sides) - 1) * GAP
    width = _even(max(2 * MARGIN + row, 720))
    top = _header_height() + 40
    height = _even(top + tile + MARGIN)
    page = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(page)
    _draw_header(draw, caption, width)
    lefts = [(width - row) // 2 + index * (tile + GAP) for index in range(len(sides))]
    for left, side in zip(lefts, sides, strict=True):
        draw.text((left, top - 12), side.label, INK, _font(side.label, 20), anchor="ls")
        room = int(tile - _font(side.label, 20).getlength(side.label) - 20)
        detail = _fitted(" · ".join(side.detail.split("\n")), 14, room)
        draw.text((left + tile, top - 12), detail, GREY, _font(detail, 14), anchor="rs")
        draw.rectangle((left - 1, top - 1, left + tile, top + tile), outline=LINE)
    frame = np.array(page)
    cameras = _orbit(sides, frames, tile)
    turns = [pictures(side.splats, cameras) for side in sides]
    options: dict[str, Any] = {"codec": "libx264", "pix_fmt_in": "rgb24", "pix_fmt_out": "yuv420p", "macro_block_size": 2}
    options |= {"quality": None, "output_params": ["-crf", "18", "-movflags", "+faststart"]}
    with replacing(path) as temporary:
        writer = imageio_ffmpeg.write_frames(str(temporary), (width, height), fps=frames_per_s, **options)
        try:
            writer.send(None)
            for index, views in enumerate(zip(*turns, strict=True)):
                for left, picture in zip(lefts, views, strict=True):
                    frame[top : top + tile, left : left + tile] = picture
                writer.send(frame)
                if on_frame is not None:
                    on_frame(index + 1)
        finally:
            writer.close()
    return path


def pictures(splats: FrozenSplats, cameras: Cameras) -> Iterator[np.ndarray]:
    """The scene on white from each camera, uint8 [H, W, 3]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scene, cameras = thaw(splats, device), cameras.to(device)
    for start in range(0, len(cameras), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        count = len(cameras.viewmats[some])
        with torch.no_grad():
            white = torch.ones(count, 3, device=device)
            render = rasterize(scene, cameras.viewmats[some], cameras.Ks[some], cameras.width, cameras.height, white)
        yield from (render.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def extent(scenes: Sequence[FrozenSplats]) -> float:
    """Radius around the origin that holds nearly all of what can be seen of every scene."""
    reach = 0.0
    for splats in scenes:
        seen = splats.opacities.reshape(-1) > 0.1
        if seen.any():
            far = np.linalg.norm(splats.means[seen], axis=1) + 2 * splats.scales[seen].max(axis=1)
            reach = max(reach, float(np.quantile(far, 0.98)))
    return min(max(reach, 0.3), 2.0)


def _orbit(sides: Sequence[Side], count: int, size: int) -> Cameras:
    """Cameras that all sides share, close enough that the largest scene fills the picture."""
    sine = min(1.12 * extent([side.splats for side in sides]) / DISTANCE, 0.9)
    return orbit_cameras(count, ELEVATION_DEG, DISTANCE, 2 * math.degrees(math.asin(sine)), size, size)


def _header_height() -> int:
    return MARGIN + 30 + 26 + 22


def _draw_header(draw: ImageDraw.ImageDraw, caption: Caption, width: int) -> None:
    room = width - 2 * MARGIN
    for text, size, color, base in ((caption.title, 28, INK, MARGIN + 26), (caption.subtitle, 16, GREY, MARGIN + 56)):
        text = _fitted(" ".join(text.split()) if size == 28 else text, size, room)
        draw.text((MARGIN, base), text, color, _font(text, size), anchor="ls")


def _draw_side(draw: ImageDraw.ImageDraw, side: Side, corner: tuple[int, int], room: int) -> None:
    x, y = corner
    for word in _wrapped(side.label, 22, room):
        draw.text((x, y + 22), word, INK, _font(word, 22), anchor="ls")
        y += 26
    for line in side.detail.split("\n"):
        draw.text((x, y + 20), line, GREY, _font(line, 15), anchor="ls")
        y += 20


def _wrapped(text: str, size: int, room: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(longer, size).getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _fitted(text: str, size: int, room: int) -> str:
    """The text, cut at the end to fit the room."""
    font = _font(text, size)
    if font.getlength(text) <= room:
        return text
    longest = bisect.bisect_right(range(len(text)), room, key=lambda count: font.getlength(text[:count] + "...")) - 1
    return text[: max(longest, 0)].rstrip() + "..."


def _font(text: str, size: int) -> Any:
    """Pillow's own typeface, or one of the system's for letters that it does not have."""
    if not all(" " <= letter <= "~" or letter in "°·" for letter in text):
        for name in SYSTEM_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _even(length: int) -> int:
    return length + length % 2
