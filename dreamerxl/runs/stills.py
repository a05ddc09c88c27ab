"""Pictures of a run: a contact sheet of every side from around, and a screenshot of the comparison at any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from dreamerxl.errors import SettingsError
from dreamerxl.files import replacing
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
    extent,
    fitted,
    font_for,
    header_height,
    orbit,
    pictures,
    wrapped,
)
from dreamerxl.runs.metadata import png_chunk

DIRECTIONS = {0: "front", 90: "left", 180: "back", 270: "right"}
SMALLEST, LARGEST = 64, 4096  # pixels of a screenshot's side


def contact_sheet(sides: Sequence[Side], path: Path, caption: Caption, *, views: int = 8, tile: int = 256) -> Path:
    """A PNG with one row a side and ``views`` azimuths; its text chunk 'dreamerxl' holds the caption's metadata."""
    names = 150
    width = MARGIN + names + views * tile + (views - 1) * GAP + MARGIN
    top = header_height() + 34
    height = top + len(sides) * tile + (len(sides) - 1) * GAP + MARGIN
    sheet = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(sheet)
    draw_header(draw, caption, width)
    cameras = orbit([side.splats for side in sides], views, tile)
    lefts = [MARGIN + names + index * (tile + GAP) for index in range(views)]
    for left, azimuth in zip(lefts, cameras.azimuth_deg.tolist(), strict=True):
        text = f"{azimuth:g}°  {DIRECTIONS.get(round(azimuth), '')}".strip()
        draw.text((left + tile / 2, top - 14), text, GREY, font_for(text, 15), anchor="ms")
    for row, side in enumerate(sides):
        y = top + row * (tile + GAP)
        _draw_side(draw, side, (MARGIN, y + tile // 2 - 44), names - 20)
        for left, picture in zip(lefts, pictures(side.splats, cameras), strict=True):
            sheet.paste(Image.fromarray(picture), (left, y))
            draw.rectangle((left, y, left + tile - 1, y + tile - 1), outline=LINE)
    with replacing(path) as temporary:
        sheet.save(temporary, pnginfo=png_chunk(caption.metadata))
    return path


def screenshot(
    sides: Sequence[Side],
    path: Path,
    caption: Caption,
    *,
    width: int = 1920,
    height: int = 1080,
    azimuth_deg: float = 30.0,
    elevation_deg: float = ELEVATION_DEG,
) -> Path:
    """A PNG of exactly width x height pixels: the sides next to each other under one camera, each with its name.

    Raises SettingsError for a size or an angle that is not accepted.
    """
    for name, value in (("width", width), ("height", height)):
        if not SMALLEST <= value <= LARGEST:
            raise SettingsError(f"The {name} of a screenshot is {value}; {SMALLEST} to {LARGEST} pixels are accepted.")
    if not abs(elevation_deg) <= 90 or not abs(azimuth_deg) <= 360:
        raise SettingsError(
            f"A screenshot is asked from azimuth {azimuth_deg:g} and elevation {elevation_deg:g}; "
            "-360 to 360 and -90 to 90 degrees are accepted."
        )
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    reach = extent([side.splats for side in sides])
    edges = [round(index * width / len(sides)) for index in range(len(sides) + 1)]
    size = max(10, min(32, height // 28))
    for side, left, right in zip(sides, edges[:-1], edges[1:], strict=True):
        seen = camera(reach, azimuth_deg, elevation_deg, right - left, height)
        image.paste(Image.fromarray(next(pictures(side.splats, seen))), (left, 0))
        label = fitted(side.label, size, right - left - size)
        draw.text(((left + right) / 2, 1.6 * size), label, INK, font_for(label, size), anchor="ms")
    with replacing(path) as temporary:
        image.save(temporary, pnginfo=png_chunk(caption.metadata))
    return path


def _draw_side(draw: ImageDraw.ImageDraw, side: Side, corner: tuple[int, int], room: int) -> None:
    x, y = corner
    for word in wrapped(side.label, 22, room):
        draw.text((x, y + 22), word, INK, font_for(word, 22), anchor="ls")
        y += 26
    for line in side.detail.split("\n"):
        draw.text((x, y + 20), line, GREY, font_for(line, 15), anchor="ls")
        y += 20
