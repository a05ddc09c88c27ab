"""What a public page lets its visitors ask for: how long, how large and how many runs may be, or that there are none.

The limits belong to the program, not to a run, and are read from its environment: a Space or a container has no command line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, SettingsError

REPLAY = "DREAMERXL_REPLAY"
PREFIX = "DREAMERXL_MOST_"
VARIABLES = {  # of the environment: the field of Limits, the least and the most that is accepted
    f"{PREFIX}ITERATIONS": ("iterations", 1, 1_000_000),
    f"{PREFIX}SECONDS": ("seconds", 1, 604_800),
    f"{PREFIX}GAUSSIANS": ("gaussians", 10, 10_000_000),
    f"{PREFIX}PIXELS": ("pixels", 1024, 268_435_456),
    f"{PREFIX}WAITING": ("waiting", 1, 1000),
    f"{PREFIX}OWN": ("own", 1, 1000),
    f"{PREFIX}KEPT": ("kept", 1, 1_000_000),
}


@dataclass(frozen=True)
class Limits:
    """None: no limit."""

    iterations: int | None = None  # of a run; of all runs of a sweep together
    seconds: int | None = None  # that a run may train, or a figure be made
    gaussians: int | None = None  # of a side, at the start or later
    pixels: int | None = None  # of a side in an iteration, all views together
    waiting: int = 8  # runs and figures in the queue
    own: int | None = None  # runs of one visitor that wait or go on
    kept: int | None = None  # ended runs on the disk; the oldest go
    replay: bool = False  # finished runs are shown, none is made

    def check(self, settings: Settings, runs: int = 1) -> None:
        """Refuse so many runs with these settings, if that is more than is made here. Raises DreamerError."""
        if self.replay:
            raise DreamerError(
                "This page replays finished runs and trains none: open them under Past runs. To make one, run the program on a "
                "machine of your own; Link keeps these settings."
            )
        grown = settings.densification.max_count if settings.densification.enabled else 0
        for asked, most, what in (
            (settings.iterations * runs, self.iterations, "iterations"),
            (max(settings.initialization.count, grown), self.gaussians, "Gaussians on a side"),
            (settings.views.batch * settings.views.resolution**2, self.pixels, "pixels an iteration"),
        ):
            if most is not None and asked > most:
                raise SettingsError(f"That is {asked:,} {what}; at most {most:,} are accepted here.")

    def check_own(self, count: int) -> None:
        """Refuse one more run of a visitor who has ``count`` that wait or go on. Raises DreamerError."""
        if self.own is not None and count >= self.own:
            have = "run of yours waits or goes on" if count == 1 else "runs of yours wait or go on"
            raise DreamerError(
                f"{count} {have} already, and {self.own} at a time is accepted here; stop one, or ask again later."
            )

    def fit(self, settings: Settings) -> Settings:
        """The same settings with no more iterations and Gaussians than are accepted."""
        limited = {
            "iterations": self.iterations,
            "initialization.count": self.gaussians,
            "densification.max_count": self.gaussians,
        }
        changes = {name: most for name, most in limited.items() if most is not None and attrgetter(name)(settings) > most}
        return settings.override(changes)


def read_limits(environment: Mapping[str, str]) -> Limits:
    """The limits that variables of the environment set; an empty one sets none. Raises SettingsError."""
    found: dict[str, int | bool] = {}
    for name in environment:
        if name.startswith(PREFIX) and name not in VARIABLES:
            nearest = difflib.get_close_matches(name, VARIABLES, 1, 0.0)[0]
            raise SettingsError(f"{name} is no limit; the nearest is {nearest}, and there are {', '.join(VARIABLES)}.")
    for name, (field, low, high) in VARIABLES.items():
        text = environment.get(name, "").strip()
        if text:
            if not (re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high):
                raise SettingsError(f"{name} is {text[:40]!r}; a whole number from {low} to {high} is accepted.")
            found[field] = int(text)
    text = environment.get(REPLAY, "").strip()
    if text not in ("", "0", "1"):
        raise SettingsError(f"{REPLAY} is {text[:40]!r}; 1 (replay finished runs) or 0 is accepted.")
    return Limits(**found, replay=text == "1")
