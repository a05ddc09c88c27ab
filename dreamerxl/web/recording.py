"""Captures that can be turned by hand: a page that needs no server, and a recording of the growth for Viser's player.

    scene.html    every side as it is now, in one file
    growth.viser  every side at the moments of its growth; opened by https://viser.studio, or by a page at ?playbackPath=
Both are made by a Viser server of their own that nobody is connected to. The sides stand next to each other along y, each
in its own frame, their fronts towards the first camera.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import viser

from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import FrozenSplats, covariances
from dreamerxl.runs.drawing import Caption, Side, extent
from dreamerxl.runs.growth import scenes_at
from dreamerxl.runs.metadata import html_script

MOST_SPLATS = 60_000  # of a side, the most opaque: 32 bytes each, at every moment
MOST_MOMENTS = 30
MOMENT_S = 0.25
FOV_DEG = 30.0
GROUND = (16, 18, 22)


def page(sides: Sequence[Side], path: Path, caption: Caption) -> Path:
    """A self-contained page of the sides, with the caption's metadata inside."""
    with _server() as server:
        _arrange(server, sides, [side.splats for side in sides])
        html = server.get_scene_serializer().as_html(dark_mode=True)
    html = html.replace("<head>", f"<head>{html_script(caption.metadata)}", 1)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def recording(sides: Sequence[Side], folder: Path, kept: Sequence[int], path: Path) -> Path:
    """The moments ``kept`` in the growth ``folder``, at most MOST_MOMENTS of them evenly, then the sides as they are now."""
    shown = [kept[index] for index in np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MOST_MOMENTS)).astype(int))]
    with _server() as server:
        first = scenes_at(folder, shown[0], len(sides)) if shown else [side.splats for side in sides]
        splats = _arrange(server, sides, first)
        made = server.get_scene_serializer()
        later = (scenes_at(folder, moment, len(sides)) for moment in shown[1:])
        for scenes in (*later, [side.splats for side in sides]):
            made.insert_sleep(MOMENT_S)
            for handle, scene in zip(splats, scenes, strict=True):
                handle.set_gaussians(*_packed(scene))
        made.insert_sleep(2 * MOMENT_S)
        data = made.serialize()
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


@contextlib.contextmanager
def _server() -> Iterator[viser.ViserServer]:
    with contextlib.redirect_stdout(io.StringIO()):  # its greeting names an address that is for nobody
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def _arrange(server: viser.ViserServer, sides: Sequence[Side], scenes: Sequence[FrozenSplats]) -> list[viser.GaussianSplatHandle]:
    """Put the sides in a row with their names before a camera that sees them all; their splats, to be changed in place."""
    reach = extent([side.splats for side in sides])
    scene = server.scene
    scene.set_up_direction("+z")
    scene.set_background_image(np.full((8, 8, 3), GROUND, np.uint8))
    scene.configure_default_lights(enabled=False, cast_shadow=False)  # splats carry their own light
    handles = []
    for index, (side, splats) in enumerate(zip(sides, scenes, strict=True)):
        place = (index - (len(sides) - 1) / 2) * 2.1 * reach
        scene.add_frame(f"/side{index}", show_axes=False, position=(0.0, place, 0.0))
        handles.append(scene.add_gaussian_splats(f"/side{index}/splats", *_packed(splats)))
        scene.add_label(f"/side{index}/name", side.label, position=(0.0, 0.0, 1.1 * reach))
    half_width = (0.5 + 0.55 * len(sides)) * 2 * reach / 1.5
    distance = max(1.25 * reach, half_width / 1.2) / math.tan(math.radians(FOV_DEG) / 2)
    camera = server.initial_camera
    camera.fov, camera.look_at = math.radians(FOV_DEG), (0.0, 0.0, 0.0)
    camera.position = tuple(distance * np.array([0.96, 0.0, 0.27]))
    return handles


def _packed(splats: FrozenSplats) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres [N, 3], covariances [N, 3, 3], colours [N, 3] and opacities [N, 1] of the most opaque splats."""
    kept = np.argsort(-splats.opacities, kind="stable")[:MOST_SPLATS]
    spreads = covariances(torch.from_numpy(splats.quats[kept]), torch.from_numpy(splats.scales[kept])).numpy()
    return splats.means[kept], spreads, splats.rgbs[kept], splats.opacities[kept, None]
