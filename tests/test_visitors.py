"""Twenty visitors at once, over HTTP as the page's own script speaks: each gets what is theirs, and refusals are sentences."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import serving, stand_in_site
from visitor import Visitor, wait_until

from dreamerxl.config import load_preset
from dreamerxl.web import desk, takeaway
from dreamerxl.web.serve import Site

VISITORS = 20
FULL = "The queue is full: 8 runs are waiting. Try again when one has finished."
STRANGER = "This run was started by another visitor; only they can pause, change or stop it."


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.02)


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as made:
        yield made


def banner(text: str) -> str:
    return f'<p class="banner error" role="alert">{text}</p>'


def all_at_once(work: Any, subjects: list[Any]) -> list[Any]:
    """What a function gives for each of some subjects, begun at the same moment on a thread each."""
    together = threading.Barrier(len(subjects))

    def begin(subject: Any) -> Any:
        together.wait(30)
        return work(subject)

    with ThreadPoolExecutor(len(subjects)) as pool:
        return list(pool.map(begin, subjects))


def test_twenty_press_run_at_once(site: Site, client: httpx.Client) -> None:
    """One trains, eight wait, eleven are told that the queue is full; everyone's answers are their own."""
    visitors = [Visitor(client, secrets.token_urlsafe(16)) for _ in range(VISITORS)]
    marks = {visitor.token: f"object{index:02d}" for index, visitor in enumerate(visitors)}
    for index, visitor in enumerate(visitors):
        visitor.fill(Prompt=f"an {marks[visitor.token]}", Iterations=5000, Seed=index, Guidance=5 + index)
    first = Visitor(client, secrets.token_urlsafe(16))
    first.fill(Prompt="the first", Iterations=5000)
    assert first.press("run") == "" and wait_until(lambda: site.manager.current() is not None)

    begun = time.monotonic()
    told = all_at_once(lambda visitor: visitor.press("run"), visitors)
    print(f"{VISITORS} answers in {time.monotonic() - begun:.2f} s")
    assert sorted(FULL in text for text in told) == [False] * 8 + [True] * 12
    assert all(text == "" for text in told if FULL not in text)
    waiting = {run.view.owner: run.view for run in site.manager.queue()}
    assert len(waiting) == 8
    for index, (visitor, text) in enumerate(zip(visitors, told, strict=True)):
        assert (visitor.token in waiting) == (text == "")
        if text == "":
            settings = waiting[visitor.token].settings
            assert (settings.prompt, settings.seed) == (f"an {marks[visitor.token]}", index)
            assert {side.guidance_scale for side in settings.variants} == {5 + index}

    def links(visitor: Visitor) -> str:
        return "".join(visitor.fire("share-link")["link"] for _ in range(5))

    for visitor, text in zip(visitors, all_at_once(links, visitors), strict=True):
        others = [mark for token, mark in marks.items() if token != visitor.token]
        assert text.count(marks[visitor.token]) == 5 and not any(mark in text for mark in others)

    looks = all_at_once(lambda visitor: str(visitor.look()), visitors)
    for visitor, text in zip(visitors, looks, strict=True):
        assert "the first" in text and not any(mark in text for mark in marks.values())  # what trains is on show, what waits not
        if visitor.token in waiting:
            place = waiting[visitor.token].queue_position
            assert ("yours is next" if place == 1 else f"yours is number {place}") in text


def test_nobody_touches_the_run_of_another(site: Site, client: httpx.Client) -> None:
    owner, waiting, stranger = (Visitor(client, secrets.token_urlsafe(16)) for _ in range(3))
    for visitor, prompt in ((owner, "a red ball"), (waiting, "a blue ball")):
        visitor.fill(Prompt=prompt, Iterations=5000)
        assert visitor.press("run") == ""
    run = wait_until(site.manager.current)
    wait_until(lambda: run.view.iteration > 2)

    def meddle(visitor: Visitor) -> list[str]:
        visitor.fill(Guidance=50)
        return [visitor.press(button) for button in ("pause", "stop", "apply")]

    for _ in range(3):
        assert meddle(stranger) == [banner(STRANGER), banner(STRANGER), banner("There is no run of yours to change.")]
    for forged in (run.view.owner_key, run.id, "", None, ["x"], {"run": run.id}, "x" * 100_000):
        other = Visitor(client)
        other.values[other._stored()] = forged
        for button in ("stop", "pause"):
            other.post(button)
    assert run.view.status == "running" and run.view.settings.variants[0].guidance_scale != 50
    assert waiting.press("stop") == "" and site.manager.queue() == ()  # one's own is withdrawn, the other goes on
    assert run.view.status == "running"
    at = run.view.iteration
    wait_until(lambda: run.view.iteration > at)
    assert owner.press("stop") == "" and run.wait(10) and run.view.status == "stopped"

    listed = stranger.fire("search", "change")["runs"]
    assert f"open:{run.id}" in listed and "delete:" not in listed
    assert "another visitor" in stranger.fire("runs", data={"name": f"delete:{run.id}"})["said"]
    assert run.folder.path.is_dir()
    assert f"delete:{run.id}" in owner.fire("search", "change")["runs"]
    owner.fire("runs", data={"name": f"delete:{run.id}"})
    wait_until(lambda: not run.folder.path.exists())
    assert stranger.client.get(f"runs/{run.id}/files/run.json").status_code == 404


def test_what_is_deleted_while_it_is_captured_stays_deleted(
    site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, begun, deleted = takeaway.make, threading.Event(), threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Path:
        begun.set()
        assert deleted.wait(20)
        return make(*arguments, **options)

    monkeypatch.setattr(takeaway, "make", slowly)
    owner = Visitor(client, secrets.token_urlsafe(16))
    owner.fill(Prompt="a red ball", Iterations=5)
    owner.press("run")
    run = wait_until(lambda: next(iter(site.manager.runs()), None))
    wait_until(lambda: owner.look() and begun.is_set())
    owner.fire("runs", data={"name": f"delete:{run.id}"})
    deleted.set()
    wait_until(lambda: "" not in site.desk.orders(run.id).values())
    assert not run.folder.exists()


def test_a_double_click_makes_one_run(site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.token_urlsafe(16)
    pages = [Visitor(client, token) for _ in range(4)]  # the browser may well have sent the second press on its own
    for page in pages:
        page.fill(Prompt="a red ball", Iterations=5000)
    assert all_at_once(lambda page: page.press("run"), pages) == [""] * 4
    run = wait_until(site.manager.current)
    assert site.manager.queue() == ()
    pages[0].fill(Seed=7)
    assert pages[0].press("run") == "" and len(site.manager.queue()) == 1  # another seed is another wish
    assert pages[1].press("stop") == "" and run.wait(10)
    wait_until(lambda: (now := site.manager.current()) is not None and now.id != run.id)
    assert pages[1].press("run") == "" and len(site.manager.queue()) == 1  # what has ended may be asked for at once
    monkeypatch.setattr(desk, "TWICE_S", 0.0)
    assert pages[1].press("run") == "" and len(site.manager.queue()) == 2


def test_a_newcomer_gets_the_form_of_a_link_but_not_of_a_stranger(client: httpx.Client, site: Site) -> None:
    owner, newcomer = (Visitor(client, secrets.token_urlsafe(16)) for _ in range(2))
    owner.fill(Prompt="the owner's words", Iterations=5000)
    owner.press("run")
    assert newcomer.fire("arrive", "load")["Prompt"] == load_preset("mushroom").prompt
    assert Visitor(client, owner.token).fire("arrive", "load")["Prompt"] == "the owner's words"
