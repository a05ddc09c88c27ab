"""The captures of a run: its sides and caption, and which files can be made of them, by name.

contact-sheet.png  turntable.mp4                made of every run that ends
screenshot.png     growth.mp4  side-by-side.mp4 made when they are asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamerxl.config import Variant
from dreamerxl.errors import RunFolderError
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.drawing import Caption, Side
from dreamerxl.runs.films import TURN, growth, turntable
from dreamerxl.runs.folder import RunFolder, scene_paths
from dreamerxl.runs.growth import moments
from dreamerxl.runs.metadata import describe
from dreamerxl.runs.run import RunView
from dreamerxl.runs.stills import contact_sheet, screenshot

ALWAYS = ("contact-sheet.png", "turntable.mp4")
CAPTURES = (*ALWAYS, "screenshot.png", "growth.mp4", "side-by-side.mp4")


def capture_run(view: RunView, sides: Sequence[Side] | None = None, *, video: bool = True) -> list[Path]:
    """captures/contact-sheet.png and captures/turntable.mp4 of an ended or paused run; the paths, in that order."""
    sides = run_sides(view) if sides is None else sides
    return [make_capture(view, name, sides) for name in ALWAYS if video or not name.endswith(".mp4")]


def make_capture(view: RunView, name: str, sides: Sequence[Side] | None = None, **options: Any) -> Path:
    """One of CAPTURES, in the run's folder. ``options`` are those of what draws it, a screenshot's size for example.

    Raises DreamerError where there is nothing to draw.
    """
    sides = run_sides(view) if sides is None else sides
    folder, caption = RunFolder(view.folder), run_caption(view)
    path = folder.captures / name
    if name == "contact-sheet.png":
        return contact_sheet(sides, path, caption, **options)
    if name == "screenshot.png":
        return screenshot(sides, path, caption, **options)
    if name == "turntable.mp4":
        return turntable(sides, path, caption, **options)
    kept = moments(folder.growth, len(sides))
    if not kept:
        raise RunFolderError("This run kept no moments of its growth; runs of this version do.")
    return growth(sides, folder.growth, kept, path, caption, **{"and_turn": TURN if name == "side-by-side.mp4" else 0, **options})


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
    return Caption(settings.prompt, " · ".join(part for part in parts if part), describe(view))
