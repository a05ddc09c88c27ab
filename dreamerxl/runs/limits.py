"""What a public page lets its visitors ask for: how many iterations, seconds and runs, or only to look.

The limits belong to the program, not to a run, and are read from its environment: a Space or a container has no command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, SettingsError

REPLAY = "DREAMERXL_REPLAY"
PREFIX = "DREAMERXL_MOST_"
VARIABLES = {  # of the environment: the field of Limits, the least and the most that is accepted
    f"{PREFIX}ITERATIONS": ("iterations", 1, 1_000_000),
    f"{PREFIX}SECONDS": ("seconds", 1, 604_800),
    f"{PREFIX}WAITING": ("waiting", 1, 1000),
    f"{PREFIX}OWN": ("own", 1, 1000),
}


@dataclass(frozen=True)
class Limits:
    """None: no limit."""

    iterations: int | None = None  # of a run; of all runs of a sweep together
    seconds: int | None = None  # that a run may train, or a figure be made
    waiting: int = 8  # runs and figures in the queue
    own: int | None = None  # runs of one visitor that wait or go on
    replay: bool = False  # finished runs are shown, none is made

    def check(self, iterations: int) -> None:
        """Refuse what is not made here. Raises DreamerError."""
        if self.replay:
            raise DreamerError(
                "This page replays finished runs and trains none: open them under Past runs. To make one, run the program on a "
                "machine of your own; Link keeps these settings."
            )
        if self.iterations is not None and iterations > self.iterations:
            raise SettingsError(f"That is {iterations:,} iterations; at most {self.iterations:,} are accepted here.")

    def check_own(self, count: int) -> None:
        """Refuse one more run of a visitor who has ``count`` that wait or go on. Raises DreamerError."""
        if self.own is not None and count >= self.own:
            have = "run of yours waits or goes on" if count == 1 else "runs of yours wait or go on"
            raise DreamerError(
                f"{count} {have} already, and {self.own} at a time is accepted here; stop one, or ask again later."
            )

    def fit(self, settings: Settings) -> Settings:
        """The same settings with no more iterations than are accepted."""
        most = self.iterations
        return settings if most is None or settings.iterations <= most else dataclasses.replace(settings, iterations=most)


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
