"""The 3D view: the scenes of a run side by side under one camera, in a Viser server of its own.

World: z up, the object's front towards +x, every object in the unit ball around the origin of its own frame. The splats
live in the scene that all visitors share; the frames that they hang from belong to each visitor. When a visitor's camera
moves, the frames are put in a row along that camera's right vector, so the sides stay side by side from everywhere, and
each frame is turned by the few degrees that its place is off the axis, so every object shows exactly the same aspect.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import viser
import viser.transforms as tf

from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.run import RunView

SPACING = 1.9  # between the centres of two neighbours, world units
FOV_DEG = 24.0  # a long lens: neighbours are seen from nearly the same direction even before they are turned
HALF_HEIGHT = 1.2  # what the first view holds above and below the centre, world units
AZIMUTH_DEG, ELEVATION_DEG = 28.0, 16.0

MOST_SPLATS = 60_000  # 32 bytes a splat on the wire, twice a second, for every visitor
COUNT_STEP = 1024  # counts are padded to a multiple: the browser rebuilds its buffers whenever the count changes
FASTEST_S = 0.5  # between two updates

STYLE = """
body, #root { background: #101216; }
"""


@dataclass(frozen=True)
class Stage:
    """What is to be seen: a label for each side and, once there is one, a scene for each."""

    labels: tuple[str, ...] = ("ISM", "TSM")
    scenes: tuple[FrozenSplats, ...] = ()
    key: Hashable = None  # changes whenever the scenes do


def stage_of(view: RunView | None) -> Stage:
    """The stage that shows a run; without a run, or before its first iteration, the sides are points in a ball."""
    if view is None:
        return Stage()
    snapshot = view.snapshot
    if snapshot is None:
        return Stage(side_labels(view), (), view.id)
    return Stage(side_labels(view), tuple(side.splats for side in snapshot.sides), (view.id, snapshot.iteration))


def side_labels(view: RunView) -> tuple[str, ...]:
    """Short names of the sides, with gamma where the method uses it: 'ISM', 'TSM γ 0.3'."""
    pairs = zip(view.labels, view.settings.variants, strict=True)
    plain = (f"{label} gamma {side.gamma:g}" if side.method == "tsm" and label == "TSM" else label for label, side in pairs)
    return tuple(label.replace("gamma", "γ") for label in plain)


class Viewer:
    """A Viser server on 127.0.0.1 that follows a stage. ``address`` is where the gateway finds it."""

    def __init__(self) -> None:
        logging.getLogger("websockets.server").setLevel(logging.ERROR)  # a visitor who leaves mid-handshake is no news
        self.server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        self.address = f"127.0.0.1:{self.server.get_port()}"
        self._stage: Stage | None = None
        self._splats: list[viser.GaussianSplatHandle] = []
        self._labels: list[viser.LabelHandle] = []
        self._frames: dict[int, list[viser.FrameHandle]] = {}  # of each client; touched on the server's event loop and in show
        self._lock = threading.Lock()  # guards _frames and the three above
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None

        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self.server.gui.main_panel.minimize()
        self.server.scene.set_up_direction("+z")
        first = self.server.initial_camera
        first.fov = math.radians(FOV_DEG)
        first.position, first.look_at = first_position(2, 1.6), (0.0, 0.0, 0.0)
        self.server.on_client_connect(self._welcome)
        self.server.on_client_disconnect(self._forget)
        self.show(Stage())

    def follow(self, latest: Callable[[], Stage]) -> None:
        """Show the newest stage from now on, at most every FASTEST_S seconds, on a thread of this viewer."""

        def work() -> None:
            while not self._closing.wait(FASTEST_S):
                try:
                    self.show(latest())
                except Exception:
                    logging.getLogger(__name__).exception("The 3D view could not be updated.")

        self._follower = threading.Thread(target=work, name="dreamerxl-viewer", daemon=True)
        self._follower.start()

    def show(self, stage: Stage) -> None:
        """Put a stage on view, in place where the number of sides is the same."""
        with self._lock:
            before, self._stage = self._stage, stage
            if before is not None and (before.key, before.labels) == (stage.key, stage.labels):
                return
            if before is None or len(before.labels) != len(stage.labels):
                self._rebuild(len(stage.labels))
            for handle, text in zip(self._labels, stage.labels, strict=True):
                handle.text = text
            scenes = [pack(scene) for scene in stage.scenes] or [ready_ball()] * len(stage.labels)
            with self.server.atomic():
                for handle, scene in zip(self._splats, scenes, strict=True):
                    handle.set_gaussians(*scene)
        self.server.flush()

    def close(self) -> None:
        """Stop following and serving."""
        self._closing.set()
        if self._follower is not None:
            self._follower.join(5.0)
        self.server.stop()

    def _rebuild(self, count: int) -> None:
        for handle in [*self._splats, *self._labels]:
            handle.remove()
        empty = ready_ball()
        scene = self.server.scene
        self._splats = [scene.add_gaussian_splats(f"/side{k}/splats", *empty) for k in range(count)]
        self._labels = [
            scene.add_label(f"/side{k}/label", "", position=(0.0, 0.0, 1.08), anchor="bottom-center") for k in range(count)
        ]
        for client_id, client in self.server.get_clients().items():
            self._frames[client_id] = self._make_frames(client, count)
            self._arrange(client.camera, self._frames[client_id])

    def _make_frames(self, client: viser.ClientHandle, count: int) -> list[viser.FrameHandle]:
        for frame in self._frames.pop(client.client_id, []):
            frame.remove()
        return [client.scene.add_frame(f"/side{k}", show_axes=False) for k in range(count)]

    async def _welcome(self, client: viser.ClientHandle) -> None:
        camera = client.camera
        camera.min_orbit_distance, camera.max_orbit_distance = 1.5, 40.0
        with self._lock:
            count = len(self._splats)
            frames = self._frames[client.client_id] = self._make_frames(client, count)
        if camera.image_height > 0:
            camera.position = first_position(count, camera.image_width / camera.image_height)
            camera.look_at = np.zeros(3)
        self._arrange(camera, frames)
        camera.on_update(self._follow_camera)

    async def _follow_camera(self, camera: viser.CameraHandle) -> None:
        frames = self._frames.get(camera.client.client_id)
        if frames:
            self._arrange(camera, frames)

    async def _forget(self, client: viser.ClientHandle) -> None:
        with self._lock:
            self._frames.pop(client.client_id, None)

    def _arrange(self, camera: viser.CameraHandle, frames: list[viser.FrameHandle]) -> None:
        right = tf.SO3(np.asarray(camera.wxyz)).as_matrix()[:, 0]
        with camera.client.atomic():
            for frame, (position, wxyz) in zip(frames, places(camera.position, right, len(frames)), strict=True):
                frame.position, frame.wxyz = position, wxyz


def first_position(count: int, aspect: float) -> np.ndarray:
    """Where a camera of that aspect (width / height) first stands so that ``count`` sides fit, looking at the origin. [3]"""
    half_width = (count - 1) * SPACING / 2 + 1.05
    distance = max(HALF_HEIGHT, half_width / aspect) / math.tan(math.radians(FOV_DEG) / 2)
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    return distance * np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )


def places(camera: np.ndarray, right: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Position [3] and rotation (wxyz) of each of ``count`` frames for a camera at [3] with that right vector [3].

    The rotation takes the direction from the camera to the origin to that from the camera to the frame: seen from the
    camera, every object shows the side that it would show at the origin.
    """
    axis = -np.asarray(camera, float)
    placed = []
    for k in range(count):
        position = (k - (count - 1) / 2) * SPACING * np.asarray(right, float)
        placed.append((position, rotation_between(axis, position + axis)))
    return placed


def rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation (wxyz, unit length) that takes the direction of a [3] to that of b [3]."""
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    if scale < 1e-9:  # a camera in the middle of an object has no direction to it
        return np.array([1.0, 0.0, 0.0, 0.0])
    wxyz = np.array([scale + a @ b, *np.cross(a, b)])
    length = np.linalg.norm(wxyz)
    return wxyz / length if length > 1e-9 else np.array([1.0, 0.0, 0.0, 0.0])


Packed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # centers [N,3], covariances [N,3,3], rgbs [N,3], opacities [N,1]


def pack(scene: FrozenSplats) -> Packed:
    """A scene as Viser takes it: at most MOST_SPLATS of the most opaque, all finite, the count padded with invisible ones."""
    means, quats, scales, opacities, rgbs = (
        np.asarray(part, np.float32) for part in (scene.means, scene.quats, scene.scales, scene.opacities, scene.rgbs)
    )
    finite = np.isfinite(opacities) & np.isfinite(np.concatenate([means, quats, scales, rgbs], 1)).all(1)
    kept = np.flatnonzero(finite)
    if len(kept) > MOST_SPLATS:
        kept = np.sort(kept[np.argpartition(-opacities[kept], MOST_SPLATS)[:MOST_SPLATS]])
    count = max(COUNT_STEP, math.ceil(len(kept) / COUNT_STEP) * COUNT_STEP)
    centers = np.zeros((count, 3), np.float32)
    covariances = np.tile(np.eye(3, dtype=np.float32) * 1e-4, (count, 1, 1))
    colors = np.zeros((count, 3), np.float32)
    alphas = np.zeros((count, 1), np.float32)
    centers[: len(kept)] = means[kept]
    covariances[: len(kept)] = _covariances(quats[kept], scales[kept])
    colors[: len(kept)] = rgbs[kept].clip(0, 1)
    alphas[: len(kept), 0] = opacities[kept].clip(0, 1)
    return centers, covariances, colors, alphas


def ready_ball() -> Packed:
    """What is seen before there is anything to see: faint grey points in a ball, as a run's Gaussians start."""
    generator = np.random.default_rng(7)
    count = 2 * COUNT_STEP
    directions = generator.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centers = directions * 0.62 * generator.random((count, 1)) ** (1 / 3)
    covariances = np.tile(np.eye(3) * 0.013**2, (count, 1, 1))
    grey = np.tile([[0.60, 0.62, 0.65]], (count, 1)) * generator.uniform(0.6, 1.0, (count, 1))
    parts = centers, covariances, grey, np.full((count, 1), 0.55)
    return tuple(part.astype(np.float32) for part in parts)  # type: ignore[return-value]


def _covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """R S S^T R^T [N, 3, 3] of unit quats [N, 4] (wxyz) and standard deviations [N, 3]."""
    half = tf.SO3(quats).as_matrix() * np.clip(scales, 0, 10)[:, None, :]
    return (half @ np.swapaxes(half, 1, 2)).astype(np.float32)
