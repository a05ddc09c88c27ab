"""What a visitor may take away from a run: names of files, where they lie in its folder, and how each is made.

A name is all that a visitor can say, and every name is one of a few patterns, so nothing that was typed becomes a path.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from dreamerxl.errors import DreamerError
from dreamerxl.files import replacing
from dreamerxl.gaussians.export import FORMATS, export
from dreamerxl.runs.capture import CAPTURES, make_capture, run_caption, run_sides
from dreamerxl.runs.folder import RunFolder, explained
from dreamerxl.runs.growth import moments
from dreamerxl.runs.metadata import describe, to_text
from dreamerxl.runs.run import RunView
from dreamerxl.web import recording

PAGE, RECORDING = "scene.html", "growth.viser"
BOTH = "sides"  # begins the name of an archive of every side
SIDE = re.compile(rf"(\d{{1,2}})-[a-z]{{2,8}}({'|'.join(re.escape(suffix) for suffix in FORMATS)})")
ARCHIVE = re.compile(rf"{BOTH}({'|'.join(re.escape(suffix) for suffix in FORMATS)})\.zip")
CAPTURE = re.compile("|".join(re.escape(name) for name in (*CAPTURES, PAGE, RECORDING, "thumbnail.png")))

PARTS = (  # where a name may lie in a run's folder
    ("scenes", re.compile(r"\d{1,2}-[a-z]{2,8}\.ply")),
    ("exports", SIDE),
    ("exports", ARCHIVE),
    ("captures", CAPTURE),
    ("growth", re.compile(r"\d{7}-\d\.jpg")),
    ("", re.compile(r"run\.json|metrics\.jsonl")),
)
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".glb": "model/gltf-binary",
    ".zip": "application/zip",
}
IN_PAGE = (".png", ".jpg", ".mp4")  # shown where they are; all else is saved


def may_leave(name: str) -> bool:
    """Whether a file of that name may leave a run's folder, if it is there."""
    return any(names.fullmatch(name) for _, names in PARTS)


def place_of(folder: Path, name: str) -> Path | None:
    """The file of that name in a run's folder, or None where there is none that may leave it."""
    for part, names in PARTS:
        path = folder / part / name
        if names.fullmatch(name) and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    return None


def is_ready(view: RunView, name: str) -> bool:
    """Whether a file is there and, for a run that has ended, was not made while it still went on."""
    path = place_of(view.folder, name)
    if path is None or not view.ended:
        return path is not None
    scenes = [scene.stat().st_mtime_ns for scene in (view.folder / "scenes").glob("*.ply")]
    return not scenes or path.stat().st_mtime_ns >= min(scenes)


def has_scene(view: RunView) -> bool:
    """Whether a run has come far enough for anything to be made of it."""
    return view.snapshot is not None or any((view.folder / "scenes").glob("*.ply"))


def export_name(view: RunView, side: int | None, suffix: str) -> str:
    """The name under which a side (None: every one, in an archive) is exported: 0-ism.spz, sides.spz.zip."""
    if side is None:
        return f"{BOTH}{suffix}.zip"
    return f"{side}-{view.settings.variants[side].method}{suffix}"


def make(view: RunView, name: str, **options: Any) -> Path:
    """Make a file of a run, over an older one of the same name. Raises DreamerError where that is not possible."""
    folder = RunFolder(view.folder)
    if name in CAPTURES:
        return make_capture(view, name, **options)
    sides = run_sides(view)
    if name == PAGE:
        return recording.page(sides, folder.captures / name, run_caption(view))
    if name == RECORDING:
        return recording.recording(sides, folder.growth, moments(folder.growth, len(sides)), folder.captures / name)
    about = to_text(describe(view))
    if match := SIDE.fullmatch(name):
        index = int(match[1])
        if index >= len(sides) or name != export_name(view, index, match[2]):
            raise DreamerError(f"This run has no side {name.partition('.')[0]}.")
        with explained(folder.exports / name):
            export(folder.exports / name, sides[index].splats, about)
        return folder.exports / name
    if match := ARCHIVE.fullmatch(name):
        with replacing(folder.exports / name) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for index, side in enumerate(sides):
                part = export_name(view, index, match[1])
                export(folder.exports / part, side.splats, about)
                archive.write(folder.exports / part, part)
        return folder.exports / name
    raise DreamerError(f"{name[:40]!r} is nothing that is made of a run.")
