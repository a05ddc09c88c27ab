"""One port for everything: the page at /, the 3D view at /viewer/ with its WebSocket, the files of runs, and /health.

Viser listens on 127.0.0.1 only and is reached through this proxy. Its client finds the socket at the address of its own
page without the trailing slash, so the WebSocket is served at /viewer and at /viewer/.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from dreamerxl import __version__
from dreamerxl.runs.run import ID_PATTERN
from dreamerxl.web import view_page
from dreamerxl.web.narrow import Narrow
from dreamerxl.web.patience import Bounded
from dreamerxl.web.takeaway import IN_PAGE, MEDIA_TYPES, may_leave, place_of

ASKED = ("accept", "if-none-match", "if-modified-since", "range")  # request headers that the view's server may see
ANSWERED = ("content-type", "etag", "last-modified", "cache-control")  # and what comes back of its answer

UPSTREAM_TIMEOUT_S = 15.0
GONE = (WebSocketDisconnect, RuntimeError, OSError)  # what sending to a browser that has left may raise


def make_gateway(
    viewer_address: str,
    run_folder: Callable[[str], Path | None],
    health: Callable[[], dict[str, Any]],
    past_address: Callable[[str], str | None] = lambda key: None,
    lab_file: Callable[[str, str], Path | None] = lambda job_id, name: None,
) -> FastAPI:
    """The ASGI application without the page, which is mounted on it afterwards.

    viewer_address is host:port of the Viser server; run_folder gives the folder of a run or None; past_address gives
    host:port of a visitor's view of the past, by its key, or None. All views share one page; their sockets differ.
    lab_file gives a file of a figure that was made in the Lab, by the figure's id and the file's name, or None.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A proxy named in the environment is for the outside world, not for this machine.
        async with httpx.AsyncClient(base_url=f"http://{viewer_address}", timeout=UPSTREAM_TIMEOUT_S, trust_env=False) as client:
            app.state.viewer = client
            yield

    app = FastAPI(title="dreamerxl", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Bounded)
    app.add_middleware(Narrow)

    @app.get("/health")
    def report_health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, **health()}

    @app.get("/healthz")
    def report_life() -> JSONResponse:
        if not health().get("training", True):
            return JSONResponse({"status": "the thread that trains has ended"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/viewer")
    def add_slash(request: Request) -> RedirectResponse:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"viewer/{query}")  # relative, so that it holds behind a sub-path too

    @app.get("/viewer/own/{name}")
    @app.get("/past/{key}/own/{name}")
    def own_file(name: str) -> FileResponse:
        if name not in view_page.FILES:
            raise HTTPException(404, "There is no such file.")
        path = view_page.FILES[name]
        return FileResponse(path, media_type=view_page.MEDIA_TYPES[path.suffix], headers={"cache-control": "no-cache"})

    @app.get("/viewer/{path:path}")
    @app.get("/past/{key}/{path:path}")
    async def viewer_file(path: str, request: Request) -> Response:
        return await forward_file(request.app.state.viewer, path, request)

    @app.websocket("/viewer")
    @app.websocket("/viewer/")
    async def viewer_socket(browser: WebSocket) -> None:
        await relay(browser, f"ws://{viewer_address}/")

    @app.websocket("/past/{key}")
    @app.websocket("/past/{key}/")
    async def past_socket(browser: WebSocket, key: str) -> None:
        address = past_address(key)
        if address is None:
            await browser.close(1013, "This view of the past is gone; open the run again.")
        else:
            await relay(browser, f"ws://{address}/")

    @app.get("/runs/{run_id}/files/{name}")
    def run_file(run_id: str, name: str) -> FileResponse:
        path = find_file(run_folder, run_id, name)
        if path is None:
            raise HTTPException(404, "There is no such file of a run.")
        return FileResponse(
            path,
            media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
            filename=f"{run_id}-{name}",
            content_disposition_type="inline" if path.suffix in IN_PAGE else "attachment",
        )

    @app.get("/lab/{job_id}/files/{name}")
    def figure_file(job_id: str, name: str) -> FileResponse:
        path = lab_file(job_id, name)
        if path is None:
            raise HTTPException(404, "There is no such file of a figure.")
        drawn = path.suffix in (".png", ".svg")
        return FileResponse(
            path,
            media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
            filename=f"{job_id}-{name}",
            content_disposition_type="inline" if drawn else "attachment",
            headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"},
        )

    return app


def find_file(run_folder: Callable[[str], Path | None], run_id: str, name: str) -> Path | None:
    """The file of a run that may be downloaded under that name, or None. Neither part may lead out of the run's folder."""
    if not (ID_PATTERN.fullmatch(run_id) and may_leave(name)):
        return None
    folder = run_folder(run_id)
    return None if folder is None else place_of(folder, name)


async def forward_file(viewer: httpx.AsyncClient, path: str, request: Request) -> Response:
    """A file of the view's page from the Viser server; our own parts are put into its HTML."""
    if any(segment == ".." for segment in re.split(r"[/\\]", path)):
        raise HTTPException(404, "There is no such file.")
    headers = {name: request.headers[name] for name in ASKED if name in request.headers}
    try:
        answer = await viewer.get(httpx.URL(path="/" + path), headers={**headers, "accept-encoding": "identity"})
    except httpx.HTTPError:
        raise HTTPException(502, "The 3D view is not running; restart the program.") from None
    kept = {name: answer.headers[name] for name in ANSWERED if name in answer.headers}
    content = answer.content
    if answer.status_code == 200 and kept.get("content-type", "").startswith("text/html"):
        content = view_page.dressed(content)
    return Response(content, answer.status_code, kept)


async def relay(browser: WebSocket, upstream_url: str) -> None:
    """Carry messages both ways between a browser and the Viser server until either side closes; the other learns the code.

    Each direction waits for the slower side before it reads on, so nothing piles up here.
    """
    offered = [Subprotocol(name) for name in browser.scope.get("subprotocols", [])]
    try:
        upstream = await connect(
            upstream_url,
            subprotocols=offered or None,
            max_size=None,
            max_queue=1,  # messages may be large, and a slow browser keeps them waiting here
            compression=None,
            open_timeout=UPSTREAM_TIMEOUT_S,
            ping_interval=None,  # the browser's side is pinged; this side never leaves the machine
            proxy=None,
        )
    except (OSError, TimeoutError, WebSocketException):
        await browser.accept(subprotocol=offered[0] if offered else None)
        await browser.close(1013, "The 3D view is not running.")
        return
    try:
        await browser.accept(subprotocol=upstream.subprotocol)
        directions = [asyncio.create_task(_to_viewer(browser, upstream)), asyncio.create_task(_to_browser(browser, upstream))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
    finally:
        await upstream.close()


async def _to_viewer(browser: WebSocket, upstream: ClientConnection) -> None:
    while True:
        message = await browser.receive()
        if message["type"] == "websocket.disconnect":
            await upstream.close(sendable(message.get("code")), message.get("reason") or "")
            return
        with contextlib.suppress(ConnectionClosed):  # _to_browser tells the browser, with the code
            await upstream.send(message["bytes"] if message.get("bytes") is not None else message["text"])


async def _to_browser(browser: WebSocket, upstream: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            message = await upstream.recv()
            try:
                await (browser.send_text(message) if isinstance(message, str) else browser.send_bytes(message))
            except GONE:  # the browser has gone; _to_viewer closes the other side
                return
    with contextlib.suppress(*GONE):
        await browser.close(sendable(upstream.close_code), upstream.close_reason or "")


def sendable(code: int | None) -> int:
    """A close code that may be sent: 1005 (none given) becomes 1000, 1006 and 1015 (abnormal) become 1011."""
    if code is None or code in (1006, 1015):
        return 1011
    return code if 3000 <= code <= 4999 or code in {1000, 1001, 1002, 1003, *range(1007, 1015)} else 1000
