"""A hub on this machine: serves a folder of files as the real one does, and fails where it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ERRORS = {
    "gated": (403, "GatedRepo"),
    "absent": (404, "RepoNotFound"),
    "private": (401, ""),
    "busy": (429, ""),
    "broken": (500, ""),
}


class Hub(ThreadingHTTPServer):
    """One model, ``name``, made of the files of a folder. ``trouble`` may be changed between requests."""

    daemon_threads = True

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.model = folder, name
        self.trouble: str | None = None  # a key of ERRORS, for every request
        self.short: str | None = None  # a file whose transfer always breaks off half-way
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if hub.trouble in ERRORS:
            status, code = ERRORS[hub.trouble]
            self.reply(status, b"{}", body, {"X-Error-Code": code} if code else {})
        elif path.startswith(f"/api/models/{hub.model}"):
            files = [
                {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()} for name, data in self.files()
            ]
            info = {"id": hub.model, "sha": COMMIT, "siblings": files, "private": False, "gated": False, "tags": []}
            self.reply(200, json.dumps(info).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith(f"/{hub.model}/resolve/"):
            self.file(path.split("/", 5)[5], body)
        else:
            self.reply(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def files(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self.server.folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.server.folder).as_posix(), path.read_bytes()

    def file(self, name: str, body: bool) -> None:
        found = dict(self.files()).get(name)
        if found is None:
            self.reply(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(found).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        status = 200
        if start:
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(found) - 1}/{len(found)}"
        if body and name == self.server.short:
            self.reply(status, found[start:], False, headers)
            self.wfile.write(found[start : len(found) // 2])
            self.close_connection = True
        else:
            self.reply(status, found[start:], body, headers)

    def reply(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(folder: Path, name: str) -> Iterator[Hub]:
    """A hub with one model, for the time of a block."""
    hub = Hub(folder, name)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
