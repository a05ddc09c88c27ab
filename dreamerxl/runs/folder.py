"""The folder of a run: run.json, metrics.jsonl, log.txt, checkpoints/, captures/, scenes/, growth/, exports/.

Every file but the two that only grow (metrics.jsonl, log.txt) is written whole under another name and then renamed, so
a reader never sees half of one. A folder that cannot be written raises RunFolderError with a sentence.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamerxl import files
from dreamerxl.config import Variant
from dreamerxl.errors import RunFolderError

PARTS = ("checkpoints", "captures", "scenes", "growth", "exports")


class RunFolder:
    """Paths and writes of one run."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints, self.captures, self.scenes, self.growth, self.exports = (self.path / part for part in PARTS)

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder; one that exists and holds something is refused."""
        folder = cls(path)
        with explained(folder.path):
            if folder.path.exists() and not folder.path.is_dir():
                raise RunFolderError(f"{path} is a file; name a folder that does not exist yet or is empty.")
            if folder.path.is_dir() and any(folder.path.iterdir()):
                raise RunFolderError(f"The folder {path} is not empty; name one that does not exist yet, or empty it.")
            for part in (folder.checkpoints, folder.captures, folder.scenes, folder.growth, folder.exports):
                part.mkdir(parents=True, exist_ok=True)
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
        """Add one iteration to metrics.jsonl."""
        with explained(self.path / "metrics.jsonl"), open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, as far as they are whole."""
        with contextlib.suppress(OSError, ValueError), open(self.path / "metrics.jsonl", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def log(self, error: BaseException) -> None:
        """Add an exception's whole traceback to log.txt; never raises, for it is called when something failed already."""
        with contextlib.suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")


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
