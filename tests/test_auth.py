"""With --auth nothing is reached without the name and the password, neither pages nor files nor sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from browser import serving, stand_in_site
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dreamerxl.config import load_preset
from dreamerxl.errors import SettingsError
from dreamerxl.web import door
from dreamerxl.web.door import COOKIE, Door, parse

USER, PASSWORD = "ada", "a long phrase: ünïcode"
SHUT = [
    "/",
    "/config",
    "/gradio_api/info",
    "/gradio_api/run/predict",
    "/health",
    "/viewer/",
    "/viewer/own/view.js",
    "/past/0123456789abcdef/",
    "/runs/20261122-142501-a3f9c1/files/run.json",
    "/lab/x/files/figure.svg",
    "/theme.css",
    "//",
    "/healthz/../config",
    "/login",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = stand_in_site(tmp_path_factory.mktemp("runs"), load_preset("mushroom"))
    object.__setattr__(site, "app", Door(site.app, USER, PASSWORD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "WRONG_S", 0.2)
        with serving(site) as found:
            yield found


def client(address: str, **options: object) -> httpx.Client:
    return httpx.Client(base_url=address, trust_env=False, timeout=30, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SHUT)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
def test_nothing_is_reached_without_them(path: str, method: str, address: str) -> None:
    with client(address) as page:
        answer = page.request(method, f"{address.rstrip('/')}{path}")
        assert answer.status_code == 401 and "gradio" not in answer.text.lower()
        for wrong in (("ada", ""), ("", PASSWORD), ("ada", PASSWORD + "x"), ("Ada", PASSWORD)) if path == "/config" else ():
            assert page.request(method, "config", auth=wrong).status_code == 401


def test_the_socket_is_shut_and_opens_with_either_proof(address: str) -> None:
    where = f"ws{address[4:]}viewer/"
    for headers in ({}, {"Cookie": f"{COOKIE}=9999999999.00"}, {"Authorization": "Basic YWRhOg=="}):
        with pytest.raises(InvalidStatus, match="403"), connect(where, additional_headers=headers, proxy=None):
            pass
    with client(address) as page:
        page.post("login", data={"user": USER, "password": PASSWORD})
        cookie = {"Cookie": f"{COOKIE}={page.cookies[COOKIE]}"}
    import viser

    protocol = [f"viser-v{viser.__version__}"]
    with connect(where, additional_headers=cookie, subprotocols=protocol, proxy=None) as view:  # type: ignore[list-item]
        assert view.recv(timeout=20)


def test_a_browser_gets_a_form_and_then_a_cookie_that_opens_everything(address: str) -> None:
    with client(address, headers={"accept": "text/html"}) as page:
        asked = page.get("viewer/")
        assert asked.status_code == 401 and 'action="../login"' in asked.text and "www-authenticate" not in asked.headers
        wrong = page.post("login", data={"user": USER, "password": "<b>"})
        assert wrong.status_code == 401 and "not the name and password" in wrong.text and COOKIE not in page.cookies
        answer = page.post("login", data={"user": USER, "password": PASSWORD})
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert {"HttpOnly", "SameSite=Lax"} <= set(answer.headers["set-cookie"].split("; "))
        assert page.get("").status_code == page.get("config").status_code == page.get("viewer/").status_code == 200
    with client(address) as page:
        assert page.get("config", auth=(USER, PASSWORD)).status_code == 200


def test_cookies_that_were_made_up_or_are_too_old_open_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(address) as page:
        page.post("login", data={"user": USER, "password": PASSWORD})
        expires, _, signature = page.cookies[COOKIE].partition(".")
    later = str(int(expires) + 1)
    for made_up in (
        f"{later}.{signature}",
        f"{expires}.{signature[:-1]}{0 if signature[-1] != chr(48) else 1}",
        f"{expires}.",
        f".{signature}",
        expires,
        "é.x",
        "1" * 5000,
    ):
        value = f"{COOKIE}={made_up}".encode()
        assert httpx.get(f"{address}config", headers={"cookie": value}, trust_env=False).status_code == 401, made_up
    monkeypatch.setattr(door.time, "time", lambda: int(expires) + 1.0)
    assert httpx.get(f"{address}config", cookies={COOKIE: f"{expires}.{signature}"}, trust_env=False).status_code == 401


def test_wrong_attempts_wait_for_each_other(address: str) -> None:
    begun = time.monotonic()
    with client(address) as page:
        for _ in range(3):
            page.post("login", data={"user": USER, "password": "guess"})
    assert time.monotonic() - begun >= 0.6


def test_life_is_told_to_everyone_and_nothing_else(address: str) -> None:
    assert httpx.get(f"{address}healthz", trust_env=False).json() == {"status": "ok"}


def test_a_dead_training_thread_is_told(tmp_path: Path) -> None:
    site = stand_in_site(tmp_path, load_preset("mushroom"))
    with serving(site) as address:
        assert httpx.get(f"{address}healthz", trust_env=False).status_code == 200
        site.manager.close()
        answer = httpx.get(f"{address}healthz", trust_env=False)
        assert answer.status_code == 503 and "has ended" in answer.json()["status"]


@pytest.mark.parametrize("text", ["ada", "ada:", ":secret", ":"])
def test_half_an_account_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="user:password"):
        parse(text)
    assert parse("ada:a:b") == ("ada", "a:b")


def test_wrong_attempts_at_the_socket_wait_and_too_many_are_turned_away(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"Authorization": "Basic YWRhOmE="}
    begun = time.monotonic()
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(f"ws{address[4:]}viewer/", additional_headers=wrong, proxy=None),
    ):
        pass
    assert time.monotonic() - begun >= 0.2
    monkeypatch.setattr(door, "MOST_WRONG", 2)
    with ThreadPoolExecutor(6) as guessers:
        asked = [guessers.submit(httpx.get, f"{address}config", headers=wrong, trust_env=False) for _ in range(6)]
        codes = sorted(answer.result().status_code for answer in asked)
    assert codes[:2] == [401, 401] and codes[-1] == 429
    with client(address) as page:
        assert page.get("config", auth=(USER, PASSWORD)).status_code == 200  # whoever knows is not kept waiting
        assert page.post("login", content=b"user=" + b"x" * 5000).status_code == 413
