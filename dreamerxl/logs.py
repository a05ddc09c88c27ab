"""Logs: one JSON line an event, with its time, level, name and fields.

server.jsonl       in the folder of the runs: what the program did. Nothing in it was typed by a visitor: of an error it
                   has the kind and the places in the code, not the text, which may quote a prompt.
ID/log.jsonl       in a run's folder: everything that happened to the run, errors with their text and traceback.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamerxl.errors import RunFolderError

SERVER_LOG = "server.jsonl"
LARGEST = 8 * 2**20  # bytes of the server's log; an older one of that size is kept beside it
HEARD = ("dreamerxl", "uvicorn")  # other libraries' messages may quote what was typed
PROGRAM = logging.getLogger("dreamerxl")


def tell(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event of the program. ``fields`` are plain values that no visitor typed."""
    PROGRAM.log(level, event, extra={"fields": fields})


def open_server_log(folder: Path) -> Callable[[], None]:
    """Have what the program tells written to ``folder``/server.jsonl, warnings and errors to stderr as well, until what is
    returned is called. Raises RunFolderError where the file cannot be written."""
    path = folder / SERVER_LOG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = Quiet(path, maxBytes=LARGEST, backupCount=1, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"The log {path} cannot be written: {error.strerror or error}.") from error
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    before = PROGRAM.level
    PROGRAM.setLevel(logging.INFO)
    for handler in (file, console):
        handler.setFormatter(Lines())
        for name in HEARD:
            logging.getLogger(name).addHandler(handler)

    def close() -> None:
        PROGRAM.setLevel(before)
        for name in HEARD:
            for handler in (file, console):
                logging.getLogger(name).removeHandler(handler)
        file.close()

    return close


class Quiet(RotatingFileHandler):
    """Drops what a full disk refuses; the program goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Lines(logging.Formatter):
    """A record as one JSON line; of an exception its type and where it went through, not what it said."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        if record.name != PROGRAM.name:
            fields["logger"] = record.name
        if record.exc_info and record.exc_info[0] is not None:
            fields |= {"error": record.exc_info[0].__name__, "where": places(record.exc_info[2])}
        return entry(record.levelname.lower(), record.getMessage(), fields, record.created)


def entry(level: str, event: str, fields: dict[str, Any], seconds: float | None = None) -> str:
    """One line without its end: when (seconds since the epoch, now by default), how grave, what, and its fields."""
    when = utc(time.time() if seconds is None else seconds)
    return json.dumps({"time": when, "level": level, "event": event, **fields}, ensure_ascii=False, default=str)


def places(trace: TracebackType | None) -> list[str]:
    """The lines of code that an exception went through, outermost first."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]


def append_line(path: Path, line: str) -> None:
    """Add a line to a file: all of it or, where the disk refuses, nothing. Raises OSError."""
    data = (line + "\n").encode("utf-8", "backslashreplace")
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
