"""What has changed in a folder since it was looked at last, so that a run's folder is kept alike elsewhere.

Files that only grow (.jsonl) travel by what was added to them. Checkpoints come after what belongs to them, metrics and
growth, and removals last: whoever has a checkpoint has all that a run needs to go on from it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamerxl.files import replacing


@dataclass(frozen=True)
class Change:
    """Bytes of one file, from ``offset`` on; at offset 0 they are the whole file. None: the file is gone."""

    name: str  # relative, with /
    data: bytes | None
    offset: int = 0


class Mirror:
    """Remembers how a folder was when ``changes`` was last asked. Files named in ``without`` and dot files do not count."""

    def __init__(self, folder: Path, without: Collection[str] = ()) -> None:
        self.folder, self.without = folder, without
        self._seen: dict[str, tuple[int, int, int]] = {}  # inode, time of change, size

    def changes(self) -> Iterator[Change]:
        """What has changed since the last time. A change counts as told once the next one is asked for."""
        there = sorted(self._there(), key=lambda name: ("checkpoints/" in name, name))
        for name in there:
            try:
                with open(self.folder / name, "rb") as file:
                    status = os.fstat(file.fileno())
                    before = self._seen.get(name, (0, 0, 0))
                    if before[:2] == (status.st_ino, status.st_mtime_ns) and before[2] == status.st_size:
                        continue
                    grown = name.endswith(".jsonl") and before[0] == status.st_ino and status.st_size >= before[2]
                    offset = before[2] if grown else 0
                    file.seek(offset)
                    data = file.read(status.st_size - offset)
            except FileNotFoundError:
                continue  # removed since it was listed
            yield Change(name, data, offset)
            self._seen[name] = (status.st_ino, status.st_mtime_ns, offset + len(data))
        for name in [name for name in self._seen if name not in there]:
            yield Change(name, None)
            del self._seen[name]

    def mark(self) -> None:
        """Take what is in the folder now as told, without reading it."""
        for name in self._there():
            status = (self.folder / name).stat()
            self._seen[name] = (status.st_ino, status.st_mtime_ns, status.st_size)

    def _there(self) -> list[str]:
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        return [name for name in names if name not in self.without and not name.rpartition("/")[2].startswith(".")]


def apply(folder: Path, changes: Iterable[Change]) -> None:
    """Make a folder like the one that the changes are of. Raises OSError."""
    for change in changes:
        path = folder / change.name
        if change.data is None:
            path.unlink(missing_ok=True)
        elif change.offset:
            with open(path, "r+b") as file:
                file.truncate(change.offset)
                file.seek(change.offset)
                file.write(change.data)
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(change.data)
