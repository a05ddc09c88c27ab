"""The 3D view: the scenes of a run side by side under one camera, in a Viser server of its own.

World: z up, the object's front towards +x, every object in the unit ball around the origin of its own frame. The splats
live in the scene that all visitors share; the frames that they hang from belong to each visitor. When a visitor's camera
moves, the frames are put in a row along that camera's right vector, so the sides stay side by side from everywhere, and
each frame is turned by the few degrees that its place is off the axis, so every object shows exactly the same aspect.
"""

from __future__ import annotations

import contextlib
import io
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
HALF_HEIGHT, HALF_SIDE = 1.15, 0.95  # what the first view holds above and below the centre, and around an outer object
AZIMUTH_DEG, ELEVATION_DEG = 28.0, 16.0
FIRST_ASPECT = 1.6  # assumed while a browser has not told the shape of its view

MOST_SPLATS = 60_000  # 32 bytes a splat on the wire, less than once a second, for every visitor
COUNT_STEP = 1024  # counts are padded to a multiple: the browser rebuilds its buffers whenever the count changes
LOOK_S = 0.1  # between two looks for something new
FASTEST_S = 1.0  # between two updates: a browser draws for a quarter of a second after each, perhaps on the cores that train

# Viser's own panel covers the picture and offers nothing that a visitor of the page needs; neither does the note that the
# browser draws in software. Real troubles (no WebGL, an old browser) stay visible.
STYLE = """
body, #root { background: #101216; }
[data-dock-root] { background: radial-gradient(ellipse at 50% 42%, #262a33 0%, #171a20 55%, #101216 100%); }
[data-floating-window], #webgl-software-rendering { display: none !important; }
.mantine-Paper-root[style*="position: fixed"] { display: none !important; }
"""

# A browser without a GPU draws on a CPU, where a frame at full size takes half a second of a core: the view falls behind,
# and training with it where both share a machine. Half the pixels each way and no multisampling cost a third of that, and
# splats are soft enough that it is hardly seen. What is left is a cost of every splat in every frame, and Viser draws
# several frames for each update: unless the visitor turns the view, they keep a distance that lets one end before the next.
SCRIPT = """
(() => {
  const asked = new URL(location.href);
  const probe = document.createElement('canvas').getContext('webgl');
  const known = probe?.getExtension('WEBGL_debug_renderer_info');
  const renderer = known ? probe.getParameter(known.UNMASKED_RENDERER_WEBGL) : '';
  probe?.getExtension('WEBGL_lose_context')?.loseContext();
  if (!/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer)) return;
  const make = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return make.call(this, kind, kind.startsWith('webgl') ? {...options, antialias: false} : options);
  };
  if (!asked.searchParams.has('fixedDpr')) {
    asked.searchParams.set('fixedDpr', '0.5');
    history.replaceState(history.state, '', asked);
  }
  const apart = 300, pending = new Set();
  const ask = window.requestAnimationFrame.bind(window), cancel = window.cancelAnimationFrame.bind(window);
  let drawn = 0, turning = 0;
  for (const kind of ['pointerdown', 'pointermove', 'wheel', 'keydown'])
    addEventListener(kind, (event) => { if (kind !== 'pointermove' || event.buttons) turning = performance.now(); }, true);
  window.requestAnimationFrame = (callback) => {
    const frame = (now) => {
      if (!pending.has(id)) return;
      const wait = now === drawn || now - turning < 500 ? 0 : drawn + apart - now;
      if (wait > 0) { setTimeout(() => ask(frame), wait); return; }
      pending.delete(id);
      drawn = now;
      callback(now);
    };
    const id = ask(frame);
    pending.add(id);
    return id;
  };
  window.cancelAnimationFrame = (id) => { pending.delete(id); cancel(id); };
})();
"""


@dataclass(frozen=True)
class Stage:
    """What is to be seen: how many sides and, once there are any, a scene for each."""

    sides: int = 2
    scenes: tuple[FrozenSplats, ...] = ()
    key: Hashable = None  # changes whenever the scenes do


def stage_of(view: RunView | None) -> Stage:
    """The stage that shows a run; without a run, or before its first iteration, the sides are points in a ball."""
    if view is None:
        return Stage()
    if view.snapshot is None:
        return Stage(len(view.settings.variants), (), view.id)
    scenes = tuple(side.splats for side in view.snapshot.sides)
    return Stage(len(scenes), scenes, (view.id, view.snapshot.iteration))


class Viewer:
    """A Viser server on 127.0.0.1 that follows a stage. ``address`` is where the gateway finds it.

    Visitors' cameras arrive on the server's event loop, stages on a thread of this viewer.
    """

    def __init__(self) -> None:
        logging.getLogger("websockets.server").setLevel(logging.ERROR)  # a visitor who leaves mid-handshake is no news
        with contextlib.redirect_stdout(io.StringIO()):  # its greeting names an address that is not for visitors
            self.server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        self.address = f"127.0.0.1:{self.server.get_port()}"
        self._lock = threading.Lock()  # guards the four below
        self._stage: Stage | None = None
        self._splats: list[viser.GaussianSplatHandle] = []  # one a side, shared by all clients
        self._frames: dict[int, list[viser.FrameHandle]] = {}  # of each client, one a side
        self._distances: dict[int, float] = {}  # that each client's view was fitted to
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None

        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self.server.gui.main_panel.minimize()
        self.server.scene.set_up_direction("+z")
        self.server.scene.configure_default_lights(enabled=False, cast_shadow=False)  # splats carry their own light
        self.server.scene.configure_environment_map(hdri=None)
        first = self.server.initial_camera
        first.fov = math.radians(FOV_DEG)
        first.position, first.look_at = first_position(2, FIRST_ASPECT), (0.0, 0.0, 0.0)
        self.server.on_client_connect(self._welcome)
        self.server.on_client_disconnect(self._forget)
        self.show(Stage())

    def follow(self, latest: Callable[[], Stage]) -> None:
        """Show the newest stage from now on, soon after it is there but at most every FASTEST_S seconds."""

        def work() -> None:
            pause = LOOK_S
            while not self._closing.wait(pause):
                try:
                    pause = FASTEST_S if self.show(latest()) else LOOK_S
                except Exception:
                    logging.getLogger(__name__).exception("The 3D view could not be updated.")

        self._follower = threading.Thread(target=work, name="dreamerxl-viewer", daemon=True)
        self._follower.start()

    def show(self, stage: Stage) -> bool:
        """Put a stage on view, in place where the number of sides stays; False where nothing new is to be seen."""
        before = self._stage
        if before is not None and (before.key, before.sides) == (stage.key, stage.sides):
            return False
        if before is not None and not before.scenes and not stage.scenes and before.sides == stage.sides:
            self._stage = stage  # the same points in a ball: the first scene need not wait for its turn after them
            return False
        scenes = [pack(scene) for scene in stage.scenes] or [ready_ball()] * stage.sides
        with self._lock:
            if len(self._splats) != stage.sides:
                self._set_sides(stage.sides)
            with self.server.atomic():
                for handle, scene in zip(self._splats, scenes, strict=True):
                    handle.set_gaussians(*scene)
            self._stage = stage
        self.server.flush()
        return True

    def close(self) -> None:
        """Stop following and serving."""
        self._closing.set()
        if self._follower is not None:
            self._follower.join(5.0)
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def _set_sides(self, count: int) -> None:
        """Make or remove splats, and every client's frames, until there is one a side. Under the lock."""
        for handle in self._splats:
            handle.remove()
        self._splats = [self.server.scene.add_gaussian_splats(f"/side{k}/splats", *ready_ball()) for k in range(count)]
        for client_id, client in self.server.get_clients().items():
            self._make_frames(client, count)
            if client_id in self._frames:
                self._arrange(client.camera)

    def _make_frames(self, client: viser.ClientHandle, count: int) -> None:
        for frame in self._frames.pop(client.client_id, []):
            frame.remove()
        self._frames[client.client_id] = [client.scene.add_frame(f"/side{k}", show_axes=False) for k in range(count)]

    async def _welcome(self, client: viser.ClientHandle) -> None:
        camera = client.camera
        camera.min_orbit_distance, camera.max_orbit_distance = 1.5, 40.0
        with self._lock:
            count = len(self._splats)
            self._make_frames(client, count)
            aspect = _aspect(camera)  # the first message tells the shape of the view, but not yet where the camera will stand
            self._distances[client.client_id] = first_distance(count, aspect)
            camera.position, camera.look_at = first_position(count, aspect), np.zeros(3)
            self._arrange(camera)
        camera.on_update(self._follow_camera)

    async def _follow_camera(self, camera: viser.CameraHandle) -> None:
        with self._lock:
            if camera.client.client_id in self._frames:
                self._arrange(camera)

    async def _forget(self, client: viser.ClientHandle) -> None:
        with self._lock:
            self._frames.pop(client.client_id, None)
            self._distances.pop(client.client_id, None)

    def _arrange(self, camera: viser.CameraHandle) -> None:
        """Put a client's frames in a row before its camera. Under the lock."""
        client = camera.client
        frames = self._frames[client.client_id]
        needed = first_distance(len(frames), _aspect(camera))
        fitted = self._distances.get(client.client_id, needed)
        if abs(needed / fitted - 1) > 0.02:  # the view's shape or the number of sides changed: step back or closer
            self._distances[client.client_id] = needed
            target = np.array(camera.look_at)
            camera.position, camera.look_at = target + (camera.position - target) * (needed / fitted), target
        right = tf.SO3(np.asarray(camera.wxyz)).as_matrix()[:, 0]
        with client.atomic():
            for frame, (position, wxyz) in zip(frames, places(camera.position, right, len(frames)), strict=True):
                frame.position, frame.wxyz = position, wxyz


def _aspect(camera: viser.CameraHandle) -> float:
    width, height = camera.image_width, camera.image_height
    return width / height if width > 0 and height > 0 else FIRST_ASPECT


def first_distance(count: int, aspect: float) -> float:
    """How far a camera of that aspect (width / height) stands so that ``count`` sides fit."""
    half_width = (count - 1) * SPACING / 2 + HALF_SIDE
    return max(HALF_HEIGHT, half_width / aspect) / math.tan(math.radians(FOV_DEG) / 2)


def first_position(count: int, aspect: float) -> np.ndarray:
    """Where a camera first stands: a little to the object's left and above. [3]"""
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    direction = [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    return first_distance(count, aspect) * np.array(direction)


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
