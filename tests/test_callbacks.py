"""A fault in the page or in the view is the fault's own affair: training goes on, nobody sees a trace, and it passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import viser
from browser import serving, stand_in_site
from visitor import Visitor, wait_until
from websockets.sync.client import connect

from dreamerxl.config import load_preset
from dreamerxl.web import cards, viewer
from dreamerxl.web.serve import Site

SECRET = "the password is swordfish"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.02)


@pytest.fixture
def visitor(site: Site) -> Iterator[Visitor]:
    with serving(site) as address, httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        made = Visitor(client)
        made.fill(Iterations=100_000)
        made.press("run")
        wait_until(lambda: site.manager.current() is not None)
        yield made


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError(SECRET)


def trains(site: Site) -> bool:
    run = site.manager.current()
    assert run is not None
    before = run.view.iteration
    return wait_until(lambda: run.view.iteration > before + 10)


def test_a_fault_in_the_page_stays_there(site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cards, "status", fail)
        answer = visitor.post("refresh_11", "tick")
        assert answer.status_code == 500 and "swordfish" not in answer.text and "Traceback" not in answer.text
        assert trains(site)
        assert httpx.get(visitor.client.base_url.join("healthz"), trust_env=False).status_code == 200
    assert "Training" in visitor.look()["status"]
    with monkeypatch.context() as patch:
        patch.setattr(site.desk, "stop", fail)
        assert "swordfish" not in visitor.post("stop").text
        assert trains(site)
    visitor.press("stop")
    wait_until(lambda: site.manager.current() is None)


def test_a_fault_in_the_view_is_logged_and_passes(
    site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    protocol: Any = [f"viser-v{viser.__version__}"]
    view = f"ws{str(visitor.client.base_url)[4:]}viewer/"
    with connect(view, subprotocols=protocol, max_size=None, proxy=None) as watcher, caplog.at_level(logging.ERROR):
        with monkeypatch.context() as patch:
            patch.setattr(viewer, "pack_sides", fail)
            wait_until(lambda: "view could not be updated" in caplog.text)
            assert trains(site)
            assert caplog.text.count("view could not be updated") == 1  # once, however long it lasts
            visitor.press("stop")
            wait_until(lambda: site.manager.current() is None)
            with pytest.raises(TimeoutError):
                while True:
                    watcher.recv(1)  # what came before; nothing new is to be seen
        while len(watcher.recv(30)) < 50_000:  # the last scene is shown once that is possible
            pass


def test_a_fault_when_somebody_connects_keeps_nobody_else_out(
    site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.viewer.server.on_client_connect(fail)
    protocol: Any = [f"viser-v{viser.__version__}"]
    view = f"ws{str(visitor.client.base_url)[4:]}viewer/"
    for _ in range(3):
        with connect(view, subprotocols=protocol, max_size=None, proxy=None) as watcher:
            assert watcher.recv(20)
            watcher.send(b"\xff not a message of Viser")
    assert trains(site)
