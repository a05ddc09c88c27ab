"""What every capture is drawn with: sides, captions, letters, and renders of frozen scenes on white by shared cameras.

Captures read frozen splats, so any thread may make them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import ImageDraw, ImageFont

from dreamerxl.cameras import Cameras, cameras_at, orbit_cameras
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import FrozenSplats, thaw

DISTANCE = 4.0
ELEVATION_DEG = 15.0
AT_ONCE = 6  # cameras per call of the rasterizer, to bound memory

WHITE, INK, GREY, LINE = (255, 255, 255), (34, 34, 34), (110, 110, 110), (226, 226, 226)
MARGIN, GAP = 36, 12
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


def orbit(scenes: Sequence[FrozenSplats], count: int, size: int) -> Cameras:
    """Cameras of one turn that all sides share, close enough that the largest scene fills the picture."""
    return orbit_cameras(count, ELEVATION_DEG, DISTANCE, fitting_fovy_deg(extent(scenes)), size, size)


def camera(reach: float, azimuth_deg: float, elevation_deg: float, width: int, height: int) -> Cameras:
    """One camera of any shape in whose picture a scene of that extent fits."""
    half = math.radians(fitting_fovy_deg(reach)) / 2
    fovy = 2 * math.degrees(math.atan(math.tan(half) * max(1.0, height / width)))
    return cameras_at(azimuth_deg, elevation_deg, DISTANCE, fovy, width, height)


def fitting_fovy_deg(reach: float) -> float:
    """The field of view that a ball of that radius fills, with a margin."""
    return 2 * math.degrees(math.asin(min(1.12 * reach / DISTANCE, 0.9)))


def header_height() -> int:
    return MARGIN + 30 + 26 + 22


def draw_header(draw: ImageDraw.ImageDraw, caption: Caption, width: int) -> None:
    room = width - 2 * MARGIN
    for text, size, color, base in ((caption.title, 28, INK, MARGIN + 26), (caption.subtitle, 16, GREY, MARGIN + 56)):
        text = fitted(" ".join(text.split()) if size == 28 else text, size, room)
        draw.text((MARGIN, base), text, color, font_for(text, size), anchor="ls")


def wrapped(text: str, size: int, room: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font_for(longer, size).getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def fitted(text: str, size: int, room: int) -> str:
    """The text, cut at the end to fit the room."""
    font = font_for(text, size)
    if font.getlength(text) <= room:
        return text
    longest = bisect.bisect_right(range(len(text)), room, key=lambda count: font.getlength(text[:count] + "...")) - 1
    return text[: max(longest, 0)].rstrip() + "..."


def font_for(text: str, size: int) -> Any:
    """Pillow's own typeface, or one of the system's for letters that it does not have."""
    if not all(" " <= letter <= "~" or letter in "°·" for letter in text):
        for name in SYSTEM_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def even(length: int) -> int:
    return length + length % 2
