"""The 3D view: the scenes of a run under one camera, in a Viser server of its own.

World: z up, the object's front towards +x, every object in the unit ball around the origin. The server shows every visitor
the same scene, one buffer of splats with all sides at the origin, and follows the newest snapshot. Where the sides are
drawn, and how, each visitor's browser decides; see `dreamerxl.web.view_page`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import viser

from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.run import RunView
from dreamerxl.runs.snapshot import NO_FRUSTUMS
from dreamerxl.web.cards import side_labels
from dreamerxl.web.view_scene import camera_lines, pack_sides, ready_ball

DISTANCE = 5.4  # of the first camera; view/layout.js chooses the lens
AZIMUTH_DEG, ELEVATION_DEG = 28.0, 16.0
NEAREST, FARTHEST = 1.5, 60.0  # how close and how far a visitor may go

LOOK_S = 0.1  # between two looks for something new
FASTEST_S = 1.0  # between two updates: a browser draws for a quarter of a second after each, perhaps on the cores that train
FASTEST_BESIDE_A_CARD_S = 0.4  # where a card trains


@dataclass(frozen=True)
class Stage:
    """What is to be seen: the sides' names and, once there are any, a scene for each and the last training cameras."""

    labels: tuple[str, ...] = ("ISM", "TSM γ 0.3")
    scenes: tuple[FrozenSplats, ...] = field(default=(), compare=False)
    frustums: np.ndarray = field(default_factory=lambda: NO_FRUSTUMS, compare=False)  # [C, 5, 3], as in a snapshot
    key: Hashable = None  # changes whenever the scenes do
    fastest_s: float = field(default=FASTEST_S, compare=False)  # between two updates

    @property
    def captions(self) -> tuple[str, ...]:
        """Each side's name and, on a second line, its number of Gaussians."""
        counts = [f"\n{len(scene):,} Gaussians" for scene in self.scenes] or [""] * len(self.labels)
        return tuple(f"{label}{count}" for label, count in zip(self.labels, counts, strict=True))


def stage_of(view: RunView | None) -> Stage:
    """The stage that shows a run; without a run, or before its first iteration, the sides are points in a ball."""
    if view is None:
        return Stage()
    if view.snapshot is None:
        return Stage(side_labels(view), key=view.id)
    snapshot = view.snapshot
    scenes = tuple(side.splats for side in snapshot.sides)
    fastest_s = FASTEST_BESIDE_A_CARD_S if view.device.startswith("cuda") else FASTEST_S
    return Stage(side_labels(view), scenes, snapshot.frustums, (view.id, snapshot.iteration), fastest_s)


class Viewer:
    """A Viser server on 127.0.0.1 that follows a stage. ``address`` is where the gateway finds it.

    ``show`` is called from one thread at a time: first by whoever makes the viewer, then by the thread of ``follow``.
    """

    def __init__(self) -> None:
        logging.getLogger("websockets.server").setLevel(logging.ERROR)  # a visitor who leaves mid-handshake is no news
        with contextlib.redirect_stdout(io.StringIO()):  # its greeting names an address that is not for visitors
            self.server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        self.address = f"127.0.0.1:{self.server.get_port()}"
        self._stage: Stage | None = None
        self._labels: list[viser.LabelHandle] = []  # one a side
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None

        scene = self.server.scene
        scene.set_up_direction("+z")
        scene.configure_default_lights(enabled=False, cast_shadow=False)  # splats carry their own light
        scene.configure_environment_map(hdri=None)
        self._splats = scene.add_gaussian_splats("/sides", *ready_ball(2))
        # Lines and labels are there for view.js, which draws them where each side is.
        self._cameras = scene.add_line_segments("/cameras", camera_lines(NO_FRUSTUMS), (255, 255, 255), visible=False)
        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self.server.gui.main_panel.minimize()
        first = self.server.initial_camera
        first.position, first.look_at = first_position(), (0.0, 0.0, 0.0)
        self.server.on_client_connect(_hold_in_bounds)
        self.show(Stage())

    def follow(self, latest: Callable[[], Stage]) -> None:
        """Show the newest stage from now on, soon after it is there but never faster than it says."""

        def work() -> None:
            pause, failing = LOOK_S, False
            while not self._closing.wait(pause):
                try:
                    stage = latest()
                    pause = stage.fastest_s if self.show(stage) else LOOK_S
                    failing = False
                except Exception:
                    if not failing:  # once, however long it lasts
                        logging.getLogger(__name__).exception("The 3D view could not be updated; it is tried again.")
                    pause, failing = FASTEST_S, True

        self._follower = threading.Thread(target=work, name="dreamerxl-viewer", daemon=True)
        self._follower.start()

    def show(self, stage: Stage) -> bool:
        """Put a stage on view; False where its splats are on view already."""
        before = self._stage
        if before is not None and before == stage:
            return False
        # Before a run's first scene the same points in a ball stay: that scene need not wait for its turn after them.
        same = before is not None and not before.scenes and not stage.scenes and len(before.labels) == len(stage.labels)
        with self.server.atomic():
            self._name(stage.captions)
            if not same:
                self._splats.set_gaussians(*(pack_sides(stage.scenes) if stage.scenes else ready_ball(len(stage.labels))))
                self._cameras.points = camera_lines(stage.frustums)
        self.server.flush()
        self._stage = stage  # not before: what failed is tried again
        return not same

    def close(self) -> None:
        """Stop following and serving."""
        self._closing.set()
        if self._follower is not None:
            self._follower.join(5.0)
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def _name(self, captions: tuple[str, ...]) -> None:
        """Let there be one label a side, with these texts."""
        for label in self._labels[len(captions) :]:
            label.remove()
        del self._labels[len(captions) :]
        for label, text in zip(self._labels, captions, strict=False):
            label.text = text
        for index in range(len(self._labels), len(captions)):
            self._labels.append(self.server.scene.add_label(f"/labels/{index}", captions[index], visible=False))


def _hold_in_bounds(client: viser.ClientHandle) -> None:
    client.camera.min_orbit_distance, client.camera.max_orbit_distance = NEAREST, FARTHEST


def first_position() -> np.ndarray:
    """Where a camera first stands: a little to the object's left and above. [3]"""
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    direction = [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    return DISTANCE * np.array(direction)
