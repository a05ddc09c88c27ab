"""The whole tour of the page in headless Chromium: a link, a run, live changes, the past, everything taken away, a watcher."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trimesh
from browser import chromium, colored, picture, serving, stand_in_site
from plyfile import PlyData

from dreamerxl.config import Settings, load_preset
from dreamerxl.gaussians.spz import read_spz
from dreamerxl.runs import films
from dreamerxl.runs.metadata import read_about, settings_of
from dreamerxl.web.share import query_of
from dreamerxl.web.shelf import CAPTURES, EXPORTS

pytestmark = pytest.mark.browser

PATIENCE_S = 120
ENOUGH = 400  # coloured pixels of a side
LONG = 100_000  # iterations, more than the tour lasts


def until(condition: Any, every_s: float = 0.3) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (outcome := condition()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(every_s)
    return outcome


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#run")
    page.frame_locator("#view").locator("canvas").last.wait_for(timeout=PATIENCE_S * 1000)


def state(page: Any) -> str:
    return page.locator("#status .state").inner_text()


def said(page: Any) -> str:
    return page.locator("#said").inner_text()


def slide(page: Any, selector: str, value: float) -> None:
    """Move a slider as a hand does: to a place, then let go."""
    page.evaluate(
        """([selector, value]) => {
            const slider = document.querySelector(selector);
            slider.value = value;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            slider.dispatchEvent(new Event('pointerup', {bubbles: true}));
        }""",
        [selector, value],
    )


def both_in_color(page: Any) -> bool:
    return min(colored(picture(page))) > ENOUGH


def test_the_whole_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(films, "MOMENT", 1)
    monkeypatch.setattr(films.turntable, "__kwdefaults__", films.turntable.__kwdefaults__ | {"frames": 6, "tile": 96})
    monkeypatch.setattr(films.growth, "__kwdefaults__", films.growth.__kwdefaults__ | {"tile": 96})
    asked = load_preset("chair").override(
        {"iterations": LONG, "seed": 7, "variants.1.gamma": 0.4, "prompt": "a blue <b>chair</b>"}
    )
    site = stand_in_site(tmp_path, Settings(prompt="x"))
    with serving(site) as address, chromium() as page:
        open_page(page, f"{address}?{query_of(asked)}")
        until(lambda: page.locator("#ask textarea").first.input_value() == asked.prompt)
        page.click("#run")
        until(lambda: state(page) == "Training")
        until(lambda: both_in_color(page))
        run = site.manager.current()
        assert run is not None and run.submitted == site.desk.find(run.id).settings == asked  # type: ignore[union-attr]

        slide(page, "#tune input[type=range]", 0.75)
        until(lambda: "γ · offset rate = 0.75 on every side" in said(page))
        until(lambda: run.view.settings.variants[1].gamma == 0.75)
        assert [event.details["changes"] for event in run.view.events if event.kind == "changed"] == [{"gamma": 0.75}]
        page.locator("#target label").nth(1).click()
        slide(page, "#tune .switched input[type=range]", 0.2)
        until(lambda: [side.clip_color for side in run.view.settings.variants] == [0.2, asked.variants[1].clip_color])

        page.click("#pause")
        until(lambda: state(page) == "Paused")
        page.reload()
        open_page(page, page.url)
        until(lambda: state(page) == "Paused" and page.locator("#pause").inner_text() == "Resume")
        until(lambda: both_in_color(page))

        with chromium_beside(page) as watcher:
            open_page(watcher, address)
            until(lambda: state(watcher) == "Paused")
            assert watcher.locator("#stop").is_disabled() and watcher.locator("#pause").is_disabled()
            assert not watcher.locator("#live").is_visible()
        page.click("#pause")
        until(lambda: state(page) == "Training")

        page.click("#stop")
        until(lambda: state(page) == "Stopped")
        until(lambda: page.locator("#time").is_visible())
        slide(page, "#moment input[type=range]", 1)
        until(lambda: "/past/" in page.locator("#view").evaluate("frame => frame.src"))
        until(lambda: both_in_color(page))
        assert page.locator(".strip small").first.inner_text() == "iteration 1"
        page.click("#present")
        until(lambda: page.locator("#view").evaluate("frame => frame.src").endswith("/viewer/"))

        names = [*CAPTURES, *(f"{side}{suffix}" for side, suffix in itertools.product(("0-ism", "1-tsm"), EXPORTS))]
        names = [*(name for name in names if name != "screenshot.png"), "sides.spz.zip"]
        for name in names:
            until(lambda name=name: take(page, name))
        page.locator("#shot input").nth(0).fill("400")
        page.locator("#shot input").nth(1).fill("300")
        page.locator("#shot input").nth(1).press("Tab")
        page.click("#take-shot")
        until(lambda: take(page, "screenshot.png"))
        saved = {name: save(f"{address}runs/{run.id}/files/{name}", tmp_path / name) for name in [*names, "screenshot.png"]}
        for name in ("contact-sheet.png", "screenshot.png", "turntable.mp4", "growth.mp4", "side-by-side.mp4", "scene.html"):
            assert settings_of(read_about(saved[name])) == run.view.settings
        means = PlyData.read(saved["1-tsm.ply"])["vertex"]
        assert len(means) == len(read_spz(saved["1-tsm.spz"])) == saved["1-tsm.splat"].stat().st_size / 32 == 1500
        assert len(trimesh.load(saved["1-tsm.glb"], force="mesh").faces) > 1000  # type: ignore[attr-defined]

        page.goto(address + "?preset=")
        open_page(page, address + "?preset=")
        page.set_input_files("#dropped input[type=file], input[type=file]", str(saved["screenshot.png"]))
        until(lambda: "are in the form" in said(page))
        assert page.locator("#ask textarea").first.input_value() == asked.prompt
        page.click("#share-link")
        until(lambda: page.locator("#link textarea").input_value().startswith("http"))
        assert page.locator("#link textarea").input_value() == address + "?" + query_of(run.view.settings)

        page.click("#past .label-wrap")
        until(lambda: page.locator("#runs article").count() == 1)
        page.on("dialog", lambda dialog: dialog.accept())
        page.click("#runs [data-do^=delete]")
        until(lambda: not run.folder.path.exists())
        until(lambda: page.locator("#runs article").count() == 0)


def chromium_beside(page: Any) -> Any:
    """Another visitor: a page of the same browser that shares neither cookies nor storage."""
    context = page.context.browser.new_context(viewport={"width": 900, "height": 700})

    class Beside:
        def __enter__(self) -> Any:
            return context.new_page()

        def __exit__(self, *_: Any) -> None:
            context.close()

    return Beside()


def take(page: Any, name: str) -> bool:
    """Whether a file is there to be saved; asks for it where it is not being made yet."""
    if page.locator(f'#files a[href$="/{name}"][download]').count():
        return True
    # The list is drawn anew whenever a file is done, also between a click's look for a button and its press.
    if page.evaluate(
        "name => { const b = document.querySelector(`#files [data-make='${name}']`); b?.click(); return !!b; }", name
    ):
        time.sleep(1.2)
    return False


def save(address: str, path: Path) -> Path:
    answer = httpx.get(address, timeout=30)
    assert answer.status_code == 200
    path.write_bytes(answer.content)
    return path
