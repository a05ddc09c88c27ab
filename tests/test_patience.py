"""Peers that stall: whoever takes nothing, or never ends a request, is let go; the others are served and memory stays bounded."""

from __future__ import annotations

import base64
import contextlib
import gc
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import viser
from browser import serving, stand_in_site
from test_gateway import gateway_to, wait_for
from websockets.sync.client import connect

from dreamerxl.config import load_preset
from dreamerxl.gaussians.scene import FrozenSplats
from dreamerxl.web import patience
from dreamerxl.web.viewer import Stage, Viewer

SPLATS = 20_000
CLIENTS = 10


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    made = Viewer()
    yield made
    made.close()


def big_stage(key: int) -> Stage:
    """Two sides of so many Gaussians that a message takes more than the kernel's buffers."""
    generator = np.random.default_rng(key)
    numbers = generator.random((SPLATS, 3), np.float32)
    quats = np.tile(np.float32([1, 0, 0, 0]), (SPLATS, 1))
    splats = FrozenSplats(numbers, quats, numbers / 50 + 0.001, np.full(SPLATS, 0.5, np.float32), numbers)
    return Stage(scenes=(splats, splats), key=key)


def never_reads(address: str, path: str = "/viewer/", resent: int = 4096) -> socket.socket:
    """A browser that opens the view and then takes nothing any more."""
    host, port = address.split(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, resent)
    made.connect((host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    made.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: viser-v{viser.__version__}\r\n\r\n".encode())
    assert made.recv(12) == b"HTTP/1.1 101"
    return made


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_ten_that_never_read_cost_a_few_messages_each_and_are_let_go(viewer: Viewer, monkeypatch: pytest.MonkeyPatch):
    message_mb = 2 * SPLATS * 32 / 1e6
    monkeypatch.setattr(patience, "STALLED_S", 3.0)
    with gateway_to(viewer.address) as address:
        viewer.show(big_stage(0))
        protocol = [f"viser-v{viser.__version__}"]
        with connect(f"ws://{address}/viewer/", subprotocols=protocol, max_size=None, proxy=None) as reader:  # type: ignore[list-item]
            assert reader.recv(20)
            for key in range(1, 6):
                viewer.show(big_stage(key))
            before, files = resident_mb(), open_files()
            stuck = [never_reads(address) for _ in range(CLIENTS)]
            assert open_files() - files >= 4 * CLIENTS  # each end of the two connections that a visitor takes
            got, grown = 0, []
            for key in range(6, 18):
                viewer.show(big_stage(key))
                while got < key - 5 and len(reader.recv(20)) > message_mb * 0.9e6:
                    got += 1
                if key % 4 == 1:
                    grown.append(resident_mb() - before)
            print(f"{CLIENTS} that never read, messages of {message_mb:.2f} MB: +{max(grown):.0f} MB at most")
            assert max(grown) < CLIENTS * 4 * message_mb + 30
            deadline = time.monotonic() + 40
            while open_files() - files > CLIENTS:  # their own ends are left
                assert time.monotonic() < deadline, f"{open_files() - files} files are held"
                viewer.show(big_stage(key := key + 1))  # what fits into the system's buffers is not known to be unread
                assert len(reader.recv(20)) > 0
    for one in stuck:
        one.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a site whose patience is short."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HEAD_S", 1.0), ("BODY_S", 1.0), ("STALLED_S", 1.0)):
            patch.setattr(patience, name, value)
        with serving(stand_in_site(tmp_path_factory.mktemp("runs"), load_preset("mushroom"))) as address:
            yield address.removeprefix("http://").rstrip("/")


def dial(address: str) -> socket.socket:
    host, port = address.split(":")
    made = socket.create_connection((host, int(port)))
    made.settimeout(20)
    return made


def post(path: str, length: int) -> bytes:
    kind = "multipart/form-data; boundary=x" if path.endswith("upload") else "application/json"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_request_that_never_ends_is_given_up(site: str):
    silent, slow, stalled, upload = (dial(site) for _ in range(4))
    slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
    stalled.sendall(post("/gradio_api/run/predict", 100) + b'{"data"')
    upload.sendall(post("/gradio_api/upload", 5000) + b"--x\r\n")
    assert httpx.get(f"http://{site}/healthz").status_code == 200  # the others are served meanwhile
    assert b" 408 " in stalled.recv(200)
    assert b"Server Error" in upload.recv(2000)  # Gradio's own answer
    for one in (silent, slow):
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(10) == b""
    for one in (silent, slow, stalled, upload):
        one.close()


def test_a_request_that_is_too_large_is_not_read(site: str):
    with dial(site) as large:
        large.sendall(post("/gradio_api/run/predict", 10**9))
        with contextlib.suppress(OSError):
            for _ in range(64):
                large.sendall(bytes(2**20))
        assert b" 413 " in large.recv(200)


def test_a_download_that_nobody_takes_is_given_up(site: str):
    files = open_files()
    stuck = []
    for _ in range(CLIENTS):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = site.split(":")
        one.connect((host, int(port)))
        one.sendall(b"GET /viewer/ HTTP/1.1\r\nHost: x\r\n\r\n")  # some megabytes
        stuck.append(one)
    assert httpx.get(f"http://{site}/healthz").status_code == 200
    wait_for(lambda: open_files() - files >= 2 * CLIENTS)
    wait_for(lambda: open_files() - files <= CLIENTS + 3)  # their own ends, and connections to the view that are kept
    for one in stuck:
        one.close()
