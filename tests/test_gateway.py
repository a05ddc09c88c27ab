"""The one port: files and messages reach the view's server and come back, files of runs leave, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import viser
from fastapi.testclient import TestClient
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dreamerxl.web import view_page
from dreamerxl.web.gateway import find_file, make_gateway, sendable
from dreamerxl.web.serve import make_server
from dreamerxl.web.viewer import Viewer

RUN = "20261122-142501-a3f9c1"
MEGABYTE = bytes(2**20)


class Upstream:
    """Stands for the Viser server: a page, and a socket that echoes, closes or floods on request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.protocols: list[str | None] = []
        self.flooded = 0
        self.closed: list[tuple[int | None, str | None]] = []
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        options: dict[str, Any] = {"compression": None, "max_size": None, "subprotocols": ["viser-v9"]}
        async with serve(self._talk, "127.0.0.1", 0, process_request=self._answer, **options) as server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            await self._end.wait()

    def _answer(self, _: ServerConnection, request: Any) -> Response | None:
        if "upgrade" in request.headers.get("Connection", "").lower():
            return None
        self.asked.append(request.path)
        if request.path != "/":
            return Response(HTTPStatus.NOT_FOUND, "Not Found", Headers({"Content-Type": "text/plain"}), b"no")
        return Response(HTTPStatus.OK, "OK", Headers({"Content-Type": "text/html"}), b"<head></head><body><p>view</p></body>")

    async def _talk(self, connection: ServerConnection) -> None:
        self.protocols.append(connection.subprotocol)
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "enough")
                elif message == "flood":
                    for _ in range(400):
                        await connection.send(MEGABYTE)
                        self.flooded += 1
                else:
                    await connection.send(message)
        await connection.wait_closed()
        self.closed.append((connection.close_code, connection.close_reason))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)


@contextlib.contextmanager
def gateway_to(viewer_address: str, past_address: Callable[[str], str | None] = lambda key: None) -> Iterator[str]:
    """host:port of a served gateway."""
    app = make_gateway(viewer_address, lambda run_id: None, dict, past_address)
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[str]:
    with gateway_to(upstream.address) as address:
        yield address


def knock(gateway: str, path: str = "/viewer", protocol: str = "viser-v9") -> ClientConnection:
    """A browser's connection to the view."""
    return connect(f"ws://{gateway}{path}", subprotocols=[Subprotocol(protocol)], max_size=None, proxy=None)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_the_page_of_the_view_comes_through_with_our_parts(gateway: str):
    answer = httpx.get(f"http://{gateway}/viewer/?initialCameraFov=1")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    head, body = (view_page.FOLDER / name for name in ("head.html", "tools.html"))
    assert answer.text == f"<head>{head.read_text('utf-8')}</head><body><p>view</p>{body.read_text('utf-8')}</body>"
    assert httpx.get(f"http://{gateway}/viewer/nothing.js").status_code == 404


def test_our_parts_of_the_view_can_be_fetched_and_nothing_else_beside_them(gateway: str):
    for name in re.findall(r'(?:src|href)="([^"]+)"', (view_page.FOLDER / "head.html").read_text("utf-8")):
        answer = httpx.get(f"http://{gateway}/viewer/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == ("text/css" if name.endswith(".css") else "text/javascript")
    for name in ("tools.html", "..%2fviewer.py", "%2e%2e/viewer.py", "nothing.js"):
        assert httpx.get(f"http://{gateway}/viewer/own/{name}").status_code == 404


def test_the_view_without_slash_redirects_relative_to_where_it_is(gateway: str):
    answer = httpx.get(f"http://{gateway}/viewer?darkMode", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == "viewer/?darkMode"


@pytest.mark.parametrize("path", ["/viewer/%2e%2e/secret", "/viewer/a/..%2f..%2fsecret", "/viewer/..%5csecret"])
def test_no_path_leads_out_of_the_view(gateway: str, upstream: Upstream, path: str):
    upstream.asked.clear()
    host, port = gateway.split(":")
    with socket.create_connection((host, int(port))) as raw:  # clients tidy such paths up before they ask
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in raw.recv(100)
    assert upstream.asked == []


@pytest.mark.parametrize("path", ["/viewer", "/viewer/"])
def test_messages_go_both_ways_with_the_subprotocol(gateway: str, upstream: Upstream, path: str):
    with knock(gateway, path) as browser:
        assert browser.subprotocol == "viser-v9"
        wait_for(lambda: upstream.protocols)
        assert upstream.protocols[-1] == "viser-v9"
        for message in ("text", b"bytes", b"", "", MEGABYTE * 3):
            browser.send(message)
            assert browser.recv(10) == message


def test_each_view_of_the_past_has_its_own_socket_and_shares_the_page(upstream: Upstream):
    other = Upstream()
    try:
        with gateway_to(upstream.address, {"a1": other.address}.get) as gateway:
            before = len(upstream.protocols)
            for path in ("/past/a1", "/past/a1/"):
                with knock(gateway, path) as browser:
                    browser.send("to the past")
                    assert browser.recv(10) == "to the past"
            assert len(other.protocols) == 2 and len(upstream.protocols) == before
            assert "<p>view</p>" in httpx.get(f"http://{gateway}/past/a1/").text
            assert httpx.get(f"http://{gateway}/past/a1/own/view.js").status_code == 200
            with pytest.raises(InvalidStatus):
                knock(gateway, "/past/b2")
    finally:
        other.stop()


def test_the_view_closing_is_told_to_the_browser_with_code_and_reason(gateway: str):
    with knock(gateway) as browser:
        browser.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            browser.recv(10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


def test_the_browser_closing_is_told_to_the_view(gateway: str, upstream: Upstream):
    upstream.closed.clear()
    with knock(gateway) as browser:
        browser.close(4002, "bye")
    wait_for(lambda: upstream.closed)
    assert upstream.closed == [(4002, "bye")]


def test_a_browser_that_vanishes_frees_the_view(gateway: str, upstream: Upstream):
    upstream.closed.clear()
    browser = knock(gateway)
    browser.socket.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: upstream.closed)


def test_a_slow_browser_holds_the_view_back(gateway: str, upstream: Upstream):
    with knock(gateway) as browser:
        browser.send("flood")
        before = -1
        while upstream.flooded != before:  # until it stands still
            before = upstream.flooded
            time.sleep(0.5)
        assert before < 200  # queues and socket buffers, not all 400 megabytes
        assert sum(len(browser.recv(20)) for _ in range(400)) == 400 * len(MEGABYTE)


def test_a_view_that_is_not_there_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with gateway_to(nobody) as gateway:
        assert httpx.get(f"http://{gateway}/viewer/").status_code == 502
        with (
            knock(gateway) as browser,
            pytest.raises(ConnectionClosed) as closed,
        ):
            browser.recv(10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013


def test_a_real_view_speaks_through_the_gateway_and_refuses_other_versions():
    viewer = Viewer()
    try:
        with gateway_to(viewer.address) as gateway:
            assert 'src="own/view.js"' in httpx.get(f"http://{gateway}/viewer/").text
            with knock(gateway, protocol=f"viser-v{viser.__version__}") as browser:
                assert isinstance(browser.recv(10), bytes)
            with (
                knock(gateway, protocol="viser-v0") as browser,
                pytest.raises(ConnectionClosed) as closed,
            ):
                browser.recv(10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1002
    finally:
        viewer.close()


@pytest.mark.parametrize(
    ("code", "sent"), [(None, 1011), (1000, 1000), (1001, 1001), (1005, 1000), (1006, 1011), (1015, 1011), (4001, 4001)]
)
def test_codes_that_cannot_be_sent_are_replaced(code: int | None, sent: int):
    assert sendable(code) == sent


@pytest.fixture
def files(tmp_path: Path) -> TestClient:
    folder = tmp_path / RUN
    captures = ("captures/turntable.mp4", "captures/contact-sheet.png")
    for name in ("scenes/0-ism.ply", *captures, "run.json", "log.jsonl", "secret.ply"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (tmp_path / "outside.ply").write_bytes(b"outside")
    (folder / "scenes" / "1-tsm.ply").symlink_to(tmp_path / "outside.ply")
    found = {RUN: folder}
    return TestClient(make_gateway("127.0.0.1:1", found.get, lambda: {"waiting": 3}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("0-ism.ply", "attachment"), ("turntable.mp4", "inline"), ("contact-sheet.png", "inline"), ("run.json", "attachment")],
)
def test_files_of_a_run_can_be_fetched(files: TestClient, name: str, kind: str):
    answer = files.get(f"/runs/{RUN}/files/{name}")
    assert answer.status_code == 200
    assert answer.content.endswith(name.encode())
    assert answer.headers["content-disposition"] == f'{kind}; filename="{RUN}-{name}"'


@pytest.mark.parametrize(
    "path",
    [
        f"/runs/{RUN}/files/log.jsonl",  # not for visitors
        f"/runs/{RUN}/files/secret.ply",
        f"/runs/{RUN}/files/1-tsm.ply",  # a link that leads out
        f"/runs/{RUN}/files/2-csd.ply",  # not there
        f"/runs/{RUN}/files/..%2frun.json",
        f"/runs/{RUN}/files/..%5c..%5coutside.ply",
        f"/runs/{RUN}/files/0-ism.ply%00.png",
        "/runs/20261122-142501-ffffff/files/run.json",
        f"/runs/..%2f{RUN}/files/run.json",
        "/runs/../files/run.json",
    ],
)
def test_other_files_cannot(files: TestClient, path: str):
    assert files.get(path).status_code == 404


def test_names_are_checked_before_a_run_is_looked_for():
    asked: list[str] = []
    assert find_file(lambda run_id: asked.append(run_id), "../etc", "run.json") is None
    assert find_file(lambda run_id: asked.append(run_id), RUN, "../run.json") is None
    assert asked == []


def test_health(files: TestClient):
    health = files.get("/health").json()
    assert health["status"] == "ok" and health["waiting"] == 3
