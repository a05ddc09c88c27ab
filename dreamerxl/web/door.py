"""The door: with ``--auth user:password`` nothing of the site is reached without them, its WebSocket and files included.

A browser is shown a form and then carries a signed cookie, which sockets send too; scripts may use HTTP Basic. Only /healthz
stays open, which tells no more than that the server lives.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import html
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from dreamerxl.errors import SettingsError
from dreamerxl.web.patience import App, Receive, Scope, Send, Unread, read_body, refuse

OPEN = ("/healthz",)
LOGIN = "/login"
COOKIE = "dreamerxl"
DAYS = 14
LONGEST_FORM = 4096  # bytes
WRONG_S = 1.0  # that a wrong attempt takes; one after the other, whoever tries
MOST_WRONG = 60  # that wait for their turn; more are turned away at once

TOO_MANY = "There were too many wrong attempts; wait a minute."

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>dreamerxl</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ display: grid; place-items: center; min-height: 90vh; margin: 0 }}
form {{ display: grid; gap: .6rem; width: min(20rem, 88vw) }}
input, button {{ font: inherit; padding: .5rem .7rem; border-radius: .5rem; border: 1px solid #8886 }}
button {{ background: #0f766e; color: #fff; border: 0 }}
label {{ display: grid; gap: .2rem }}
p {{ margin: 0; color: #c33 }}
p:empty {{ display: none }}
</style><form method="post" action="{action}"><h1>dreamerxl</h1><p role="alert">{told}</p>
<label>Name <input name="user" autocomplete="username" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Come in</button></form></html>"""


def parse(text: str) -> tuple[str, str]:
    """The two of 'user:password'. Raises SettingsError."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise SettingsError("--auth is not of the form user:password; both are needed, for example --auth ada:a-long-phrase.")
    return user, password


class Door:
    """An ASGI application in front of another one, which a proxy may show under a path."""

    def __init__(self, app: App, user: str, password: str, path: str = "") -> None:
        self.app = app
        self._path = f"{path}/"
        self._user, self._password = user.encode(), password.encode()
        self._key = hashlib.sha256(b"dreamerxl door\0" + self._user + b"\0" + self._password).digest()
        self._wrong = asyncio.Lock()
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["type"] == "http" and scope["path"] == LOGIN and scope["method"] == "POST":
            return await self._log_in(scope, headers, receive, send)
        if scope["path"] in OPEN or self._knows(headers):
            return await self.app(scope, receive, send)
        in_time = b"authorization" not in headers or await self._take_time()
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the browser sees 403
        await (self._refuse(scope, headers, send) if in_time else refuse(send, 429, TOO_MANY))

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        return self._has_cookie(headers.get(b"cookie", b"")) or self._has_basic(headers.get(b"authorization", b""))

    def _has_cookie(self, header: bytes) -> bool:
        try:
            morsel = SimpleCookie(header.decode("latin-1")).get(COOKIE)
        except CookieError:
            return False
        expires, dot, signature = (morsel.value if morsel else "").partition(".")
        if not (dot and expires.isascii() and expires.isdigit() and len(expires) < 12 and int(expires) > time.time()):
            return False
        return hmac.compare_digest(self._sign(expires).encode(), signature.encode())

    def _has_basic(self, header: bytes) -> bool:
        scheme, _, encoded = header.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            user, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            return False
        return self._is(user, password)

    def _is(self, user: bytes, password: bytes) -> bool:
        """Both are always compared, each in a time that does not tell where it differs."""
        return bool(hmac.compare_digest(user, self._user) & hmac.compare_digest(password, self._password))

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()

    async def _take_time(self) -> bool:
        """Wait for one's turn to be wrong; False where too many do already."""
        if self._waiting >= MOST_WRONG:
            return False
        self._waiting += 1
        try:
            async with self._wrong:
                await asyncio.sleep(WRONG_S)
        finally:
            self._waiting -= 1
        return True

    async def _log_in(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            form = parse_qs((await read_body(receive, LONGEST_FORM)).decode("utf-8", "replace"))
        except Unread as reason:
            return await refuse(send, *reason.args)
        user, password = (form.get(name, [""])[0].encode() for name in ("user", "password"))
        if not self._is(user, password):
            if not await self._take_time():
                return await refuse(send, 429, TOO_MANY)
            return await self._refuse(scope, headers, send, "That is not the name and password of this place.")
        expires = str(int(time.time()) + DAYS * 86400)
        is_https = b"https" in (headers.get(b"x-forwarded-proto", b""), scope["scheme"].encode())
        rules = f"Path={self._path}; Max-Age={DAYS * 86400}; HttpOnly; SameSite=Lax{'; Secure' if is_https else ''}"
        cookie = f"{COOKIE}={expires}.{self._sign(expires)}; {rules}"
        await _answer(send, 303, b"", [(b"location", b"./"), (b"set-cookie", cookie.encode())])

    async def _refuse(self, scope: Scope, headers: dict[bytes, bytes], send: Send, told: str = "") -> None:
        if b"text/html" in headers.get(b"accept", b""):
            up = "../" * (scope["path"].count("/") - 1)  # relative, so that it holds behind a sub-path too
            page = PAGE.format(action=html.escape(f"{up}{LOGIN[1:]}"), told=html.escape(told))
            return await _answer(send, 401, page.encode(), [(b"content-type", b"text/html; charset=utf-8")])
        challenge = [(b"www-authenticate", b'Basic realm="dreamerxl"'), (b"content-type", b"text/plain")]
        await _answer(send, 401, b"A name and a password are needed.", challenge)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
