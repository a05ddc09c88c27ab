"""What a file that leaves a run says about where it comes from, and how it is read back: settings, seed, changes, versions.

    .png   text chunk (iTXt) 'dreamerxl'        .mp4   the comment tag          .html  <script type="application/json">
    .ply   comments of the header               .glb   asset.extras
The text is JSON. Files that visitors bring are read by their marks, never by their names: the bytes around the text are
skipped over, nothing is decoded, and no more than LONGEST characters are taken.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL.PngImagePlugin import PngInfo

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.gaussians import ply
from dreamerxl.hardware import versions
from dreamerxl.runs.run import RunView

KEY = "dreamerxl"
LONGEST = 240_000  # characters of the text
MOST_CHANGES = 200  # live changes that are told, the latest
MOST_PARTS = 5_000  # chunks or boxes that are looked at
SCRIPT = '<script type="application/json" id="dreamerxl">'

HOSTILE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error, zlib.error)  # bytes lead to these
PNG_MARK = b"\x89PNG\r\n\x1a\n"


def describe(view: RunView) -> dict[str, Any]:
    """What repeats the run: settings (with live changes, which are listed too), seed, versions."""
    changes = [{"iteration": event.iteration, **event.details} for event in view.events if event.kind == "changed"]
    return {
        "run": view.id,
        "settings": view.settings.to_dict(),
        "seed": view.settings.seed,
        "changes": changes[-MOST_CHANGES:],
        "model": view.model,
        "iterations": view.iteration,
        "versions": versions(),
    }


def to_text(about: Mapping[str, Any]) -> str:
    """JSON in ASCII without white space, which a reader of headers might trim. '' for nothing."""
    if not about:
        return ""
    return json.dumps(about, separators=(",", ":")).replace(" ", "\\u0020")  # spaces are left in strings alone


def png_chunk(about: Mapping[str, Any]) -> PngInfo:
    """The text chunks of a picture, for Pillow's ``save(pnginfo=)``."""
    chunks = PngInfo()
    chunks.add_itxt(KEY, to_text(about))
    chunks.add_text("Software", f"dreamerxl {versions()['dreamerxl']}")
    return chunks


def mp4_options(about: Mapping[str, Any]) -> list[str]:
    """What ffmpeg is told about a film."""
    return ["-metadata", f"comment={to_text(about)}"] if about else []


def html_script(about: Mapping[str, Any]) -> str:
    """The element of a page that carries the text; '<' is escaped, so that no prompt ends it."""
    return SCRIPT + to_text(about).replace("<", "\\u003c") + "</script>"


def read_about(path: Path | str) -> dict[str, Any]:
    """What a .png, .mp4, .ply, .glb or .html of a run says. Raises DreamerError where it says nothing that can be used."""
    try:
        with open(path, "rb") as file:
            mark = file.read(12)
            file.seek(0)
            text = next((read(file) for fits, read in READERS if fits(mark)), "")
            about = json.loads(text) if 0 < len(text) <= LONGEST else None
    except OSError as error:
        raise DreamerError(f"The file cannot be read: {error.strerror or error}.") from None
    except HOSTILE:
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        raise DreamerError("This file carries no settings of dreamerxl; pictures, films, scenes and pages that a run made do.")
    return about


def settings_of(about: Mapping[str, Any]) -> Settings:
    """The settings that a file was made with, live changes included. Raises SettingsError where they no longer fit."""
    try:
        return Settings.from_dict(about["settings"])
    except SettingsError as error:
        raise SettingsError(f"The settings in this file do not fit this version: {error}") from None


def _from_png(file: BinaryIO) -> str:
    file.seek(len(PNG_MARK))
    for _ in range(MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"iTXt", b"tEXt") and length <= 2 * LONGEST:
            keyword, _, rest = file.read(length).partition(b"\0")
            file.seek(4, io.SEEK_CUR)
            if keyword != KEY.encode():
                continue
            if kind == b"tEXt":
                return rest.decode("latin-1")
            packed = rest[:1] == b"\1"
            content = rest[2:].split(b"\0", 2)[2]  # after the language and the translated keyword
            return (zlib.decompressobj().decompress(content, 4 * LONGEST) if packed else content).decode()
        file.seek(length + 4, io.SEEK_CUR)  # and the checksum
    return ""


def _from_mp4(file: BinaryIO) -> str:
    end = file.seek(0, io.SEEK_END)
    place = _box(file, 0, end, (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"))
    if place is None:
        return ""
    start, stop = place
    file.seek(start + 8)  # the kind of data and its language
    return file.read(min(stop - start - 8, 4 * LONGEST)).decode()


def _box(file: BinaryIO, start: int, end: int, names: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Where the content of a box of an MP4 lies; names lead to it from the outside in."""
    for name, inside, stop in _boxes(file, start, end):
        if name == names[0]:
            if len(names) == 1:
                return inside, stop
            return _box(file, inside + 4 * (name == b"meta"), stop, names[1:])  # a meta box begins with a version
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(MOST_PARTS):
        if start + 8 > end:
            return
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        inside = start + 8
        if size == 1:
            size, inside = struct.unpack(">Q", file.read(8))[0], start + 16
        stop = end if size == 0 else start + size
        if stop < inside or stop > end:
            return
        yield name, inside, stop
        start = stop


def _from_glb(file: BinaryIO) -> str:
    length, kind = struct.unpack("<I4s", file.read(20)[12:])
    if kind != b"JSON" or length > 8 * LONGEST:
        return ""
    tree = json.loads(file.read(length))
    found = tree["asset"]["extras"][KEY] if KEY in tree.get("asset", {}).get("extras", {}) else ""
    return found if isinstance(found, str) else ""


def _from_html(file: BinaryIO) -> str:
    found = re.search(re.escape(SCRIPT) + r"([^<]*)</script>", file.read(4 * LONGEST).decode("utf-8", "replace"))
    return found[1] if found else ""


READERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], str]], ...] = (
    (lambda mark: mark.startswith(PNG_MARK), _from_png),
    (lambda mark: mark[4:8] == b"ftyp", _from_mp4),
    (lambda mark: mark.startswith(b"ply"), ply.read_about),
    (lambda mark: mark.startswith(b"glTF"), _from_glb),
    (lambda mark: mark.lstrip()[:1] == b"<", _from_html),
)
