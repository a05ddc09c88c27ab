"""Folders for what a process is at, on the disk of its machine. Those of processes that were killed are cleared by the next.

    PARENT/dreamerxl-PROCESS-NAME/       the folder
    PARENT/dreamerxl-PROCESS-NAME.lock   held by its process as long as that lives
The system lets go of a lock however its process ends, so whoever can take one may clear the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "dreamerxl-"


class Scratch:
    """A folder of this process, empty at first. Raises OSError where it cannot be made."""

    def __init__(self, parent: Path | None = None) -> None:
        """parent: by default the system's place for temporary files."""
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        clear_dead(parent)
        self.path = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = FileLock(f"{self.path}.lock", timeout=0, thread_local=False)  # closed by whichever thread
        self._lock.acquire()
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Clear the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()


def clear_dead(parent: Path) -> None:
    """Remove the folders of processes that are no more."""
    for path in parent.glob(f"{PREFIX}*.lock"):
        with contextlib.suppress(OSError, Timeout), FileLock(path, timeout=0):  # a living one's is held; another user's is theirs
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()
