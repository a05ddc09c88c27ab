"""Files that appear whole or not at all: written under another name beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path with the same suffix that replaces ``target`` when the block ends well, and is removed when not.

    The folder is made where it is missing. Raises OSError as the system does.
    """
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")  # two writers never meet
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
