"""How long the server waits and how much it takes: whoever stalls is let go, and what is too large is not read.

A peer that stops reading would keep what was meant for it in memory for as long as its connection lives: closing a
connection waits for what is still to be sent. Here a connection whose buffer does not shrink is cut, one that never ends its
request's head too, and a request's body has a limit in size and in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

STALLED_S = 45.0  # in which a peer must take something of what it is sent
HEAD_S = 30.0  # for the head of a connection's first request
BODY_S = 30.0  # between two parts of a body
LARGEST_BODY = 4 * 2**20  # bytes; uploads have a limit of their own and go to the disk as they come
UPLOAD = "/gradio_api/upload"
MOST_UPLOADED = 2 * 2**30  # bytes in the time that uploads are kept
UPLOADED_S = 3600.0

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Watched:
    """Cuts the connection of a peer that takes nothing for STALLED_S. Mixed into uvicorn's protocols."""

    transport: Any
    _watch: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._look(None)

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)  # type: ignore[misc]

    def _look(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and left >= before:  # a ping may have made it larger
            self.transport.abort()
        else:
            self._watch = asyncio.get_running_loop().call_later(STALLED_S, self._look, left)

    def _forget(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


class Requests(_Watched, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP, for peers that may stall."""

    cycle: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch = asyncio.get_running_loop().call_later(HEAD_S, self._expect_request)

    def _expect_request(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:  # a WebSocket would have taken its place
            self.transport.abort()


class Sockets(_Watched, AutoWebSocketsProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's WebSockets, for peers that may stall."""


class Unread(Exception):
    """Why a body is not taken: an HTTP status and a sentence."""


async def read_body(receive: Receive, largest: int = LARGEST_BODY) -> bytes:
    """The body of a request. Raises Unread for one that is larger, or that does not arrive."""
    body, more = bytearray(), True
    while more:
        try:
            message = await asyncio.wait_for(receive(), BODY_S)
        except asyncio.TimeoutError:
            raise Unread(408, "The request did not arrive in time.") from None
        if message["type"] != "http.request":
            raise Unread(400, "The request broke off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > largest:
            raise Unread(413, f"The request is larger than {largest:,} bytes, which is the most that is accepted.")
    return bytes(body)


class Bounded:
    """An ASGI application whose requests have bodies of a bounded size that arrive in a bounded time; uploads, that fill the
    disk, have a bounded sum."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._uploaded: deque[tuple[float, int]] = deque()  # when, and how many bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].endswith(UPLOAD):
            while self._uploaded and self._uploaded[0][0] < time.monotonic() - UPLOADED_S:
                self._uploaded.popleft()
            if sum(size for _, size in self._uploaded) >= MOST_UPLOADED:
                return await refuse(send, 507, "There were too many uploads of late; try again in an hour.")
            with contextlib.suppress(ClientDisconnect):  # Gradio has answered; a visitor who left is nothing for the log
                await self.app(scope, _impatient(receive, self._count), send)
            return None
        try:
            waiting: list[Message] = [{"type": "http.request", "body": await read_body(receive), "more_body": False}]
        except Unread as reason:
            return await refuse(send, *reason.args)

        async def give() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, give, send)

    def _count(self, size: int) -> None:
        self._uploaded.append((time.monotonic(), size))


def _impatient(receive: Receive, count: Callable[[int], None]) -> Receive:
    """The same messages, their sizes counted; a body whose next part does not come in time ends as if its sender had gone."""
    more = True

    async def take() -> Message:
        nonlocal more
        if not more:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_S)
        except asyncio.TimeoutError:
            message = {"type": "http.disconnect"}
        count(len(message.get("body", b"")))
        more = message.get("more_body", False)
        return message

    return take


async def refuse(send: Send, status: int, sentence: str) -> None:
    text = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": text})
