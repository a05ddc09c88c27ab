"""The folder of a run: run.json, metrics.jsonl, log.jsonl, checkpoints/, captures/, scenes/, growth/, exports/.

Every file but the two that only grow (metrics.jsonl, log.jsonl) is written whole under another name and then renamed, so
a reader never sees half of one. A folder that cannot be written raises RunFolderError with a sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from dreamerxl import files
from dreamerxl.config import Variant
from dreamerxl.errors import RunFolderError
from dreamerxl.logs import append_line, entry

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
PARTS = ("checkpoints", "captures", "scenes", "growth", "exports")


class RunFolder:
    """Paths and writes of one run."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints, self.captures, self.scenes, self.growth, self.exports = (self.path / part for part in PARTS)
        self._lock: IO[bytes] | None = None

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder; one that exists and holds something is refused."""
        folder = cls(path)
        with explained(folder.path):
            if folder.path.exists() and not folder.path.is_dir():
                raise RunFolderError(f"{path} is a file; name a folder that does not exist yet or is empty.")
            if folder.path.is_dir() and any(folder.path.iterdir()):
                raise RunFolderError(f"The folder {path} is not empty; name one that does not exist yet, or empty it.")
        folder.mend()
        return folder

    def write_record(self, record: dict[str, Any]) -> None:
        """run.json: what the run was asked, on what it ran, and what became of it."""
        with replacing(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def read_record(self) -> dict[str, Any]:
        """The contents of run.json. Raises RunFolderError where there is none that can be read."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.path} holds no readable run.json: {error}.") from None
        if not isinstance(record, dict):
            raise RunFolderError(f"{self.path / 'run.json'} is not the record of a run.")
        return record

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one iteration to metrics.jsonl: the whole line or, where the disk refuses, nothing of it."""
        if self._lock is not None and not os.path.exists(self.path / LOCK):  # another may have been made in its place
            raise RunFolderError(f"{self.path} cannot be written: the folder of this run is gone.")
        with explained(self.path / "metrics.jsonl"):
            append_line(self.path / "metrics.jsonl", json.dumps(line))

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, as far as they are whole."""
        return whole_lines(self.path / "metrics.jsonl")

    def forget_metrics_after(self, iteration: int) -> None:
        """Rewrite metrics.jsonl and growth/marks.jsonl without what came after an iteration, or was torn off."""
        for path in (self.path / "metrics.jsonl", self.growth / "marks.jsonl"):
            if path.exists():
                kept = [line for line in whole_lines(path) if line["iteration"] <= iteration]
                with replacing(path) as temporary:
                    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def mend(self) -> None:
        """Make the parts of the folder again that have gone."""
        with explained(self.path):
            for part in PARTS:
                (self.path / part).mkdir(parents=True, exist_ok=True)
        if self._lock is not None and not (self.path / LOCK).exists():
            self.release()
            self.hold()

    def sweep(self) -> None:
        """Remove what a killed program left half written. Only for a folder that nobody holds."""
        with explained(self.path):
            for path in self.path.glob("**/.*"):
                if path.name != LOCK:
                    path.unlink(missing_ok=True)

    def hold(self) -> None:
        """Keep the folder for this program until ``release`` or until the program ends, however it ends."""
        self._lock = _locked(self.path / LOCK)

    def release(self) -> None:
        """Let go of the folder."""
        lock, self._lock = self._lock, None  # first, so that no other thread mends what is let go of
        if lock is not None:
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
            lock.close()

    def is_held(self) -> bool:
        """Whether a living program keeps the folder, this one or another."""
        if self._lock is not None:
            return True
        lock = _locked(self.path / LOCK) if (self.path / LOCK).exists() else None
        if lock is None:
            return (self.path / LOCK).exists() and fcntl is not None
        lock.close()
        return False

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Add an event to log.jsonl. Never raises: what is logged may be that nothing can be written."""
        with contextlib.suppress(OSError):
            append_line(self.path / "log.jsonl", entry(level, event, fields))

    def log_error(self, error: BaseException) -> None:
        """Add an exception to log.jsonl, with its text and traceback."""
        trace = "".join(traceback.format_exception(error))
        self.log("error", type(error).__name__, text=str(error), traceback=trace)


def _locked(path: Path) -> IO[bytes] | None:
    """The open file with an exclusive lock, which ends with its program; None where another holds it or there are no locks."""
    if fcntl is None:
        return None
    try:
        file = open(path, "ab")  # noqa: SIM115  held open for as long as the lock is wanted
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file
    except OSError:
        return None


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file that grows, up to one that a killed program tore."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def scene_paths(folder: Path, variants: Sequence[Variant]) -> list[Path]:
    """Where the scene of each side stands: scenes/0-ism.ply, scenes/1-tsm.ply, ..."""
    return [folder / "scenes" / f"{index}-{variant.method}.ply" for index, variant in enumerate(variants)]


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """``files.replacing``, with a RunFolderError for what the system says."""
    with explained(target), files.replacing(target) as temporary:
        yield temporary


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says about a write into a RunFolderError with a sentence."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}.") from error
