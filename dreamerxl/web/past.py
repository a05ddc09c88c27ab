"""Views of what is not live: past runs and earlier moments, in a Viser server of each visitor's own.

Viser shows one scene to everyone who is connected, so whoever looks back needs another server than those who watch the run
in progress. There are at most MOST of them; who asks for one more takes the place of whoever moved the longest ago.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dreamerxl.errors import DreamerError
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.runs.capture import run_sides
from dreamerxl.runs.growth import moments, scenes_at
from dreamerxl.runs.run import RunView, key_of
from dreamerxl.web.cards import side_labels
from dreamerxl.web.viewer import Stage, Viewer

MOST = 6


class Past:
    """Hands out views by a key that is the visitor's alone. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._viewers: OrderedDict[str, Viewer] = OrderedDict()
        self._lock = threading.Lock()  # guards the above, and lets a viewer be shown one thing at a time

    def show(self, owner: str, view: RunView, iteration: int | None = None) -> str:
        """Put a run at a moment of its growth (None: as it is now) before a visitor; the key of their view.

        Raises DreamerError where the run has no scene of then.
        """
        stage = stage_at(view, iteration)
        key = key_of(owner)[:16]
        with self._lock:
            if key not in self._viewers:
                while len(self._viewers) >= MOST:
                    self._viewers.popitem(last=False)[1].close()
                self._viewers[key] = Viewer()
            self._viewers.move_to_end(key)
            self._viewers[key].show(stage)
        return key

    def address(self, key: str) -> str | None:
        """host:port of the view of that key, or None."""
        with self._lock:
            viewer = self._viewers.get(key)
            return None if viewer is None else viewer.address

    def close(self) -> None:
        """End every view."""
        with self._lock:
            while self._viewers:
                self._viewers.popitem()[1].close()


def stage_at(view: RunView, iteration: int | None = None) -> Stage:
    """The stage that shows a run at a moment of its growth, or (None) its latest. Raises DreamerError."""
    return Stage(side_labels(view), scenes_of(view, iteration), key=(view.id, iteration))


def scenes_of(view: RunView, iteration: int | None) -> tuple[FrozenSplats, ...]:
    """The scenes of a run at a moment, or (None) its latest. Raises DreamerError."""
    sides = len(view.settings.variants)
    if iteration is not None:
        return scenes_at(view.folder / "growth", iteration, sides)
    try:
        return tuple(side.splats for side in run_sides(view))
    except DreamerError:  # it ended before it wrote its scenes: its last moment is the latest there is
        kept = moments(view.folder / "growth", sides)
        if not kept:
            raise
        return scenes_at(view.folder / "growth", kept[-1], sides)
