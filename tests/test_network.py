"""Close, reload, lose the network, at any moment: the run goes on without a gap and is found again, and so is the view."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import WATCH, chromium, seen, serving, stand_in_site
from cable import Cable, cable_to

from dreamerxl.config import load_preset

pytestmark = pytest.mark.browser
Error = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").Error

PATIENCE_S = 60
LONG = 100_000  # iterations, more than the test lasts


def until(condition: Any) -> float:
    """Seconds until a condition held."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE_S, "nothing came of it"
        time.sleep(0.05)
    return time.monotonic() - begun


ITERATION = """() => {
  const found = (document.querySelector('#status')?.innerText ?? '').match(/([\\d,]+) of 100,000/);
  return found ? Number(found[1].replaceAll(',', '')) : -1;
}"""


def iteration(page: Any) -> int:
    """The iteration that the page tells; -1 while it tells none, or is loaded anew."""
    try:
        return page.evaluate(ITERATION)
    except Error:
        return -1


def drawn(page: Any) -> int:
    """How many different pictures the view has drawn since it was loaded."""
    try:
        return len({entry["sum"] for entry in seen(page)})
    except (Error, StopIteration, TypeError):
        return 0


def test_the_run_is_found_again_and_the_view_goes_on(tmp_path: Path) -> None:
    site = stand_in_site(tmp_path, load_preset("mushroom"))
    chance = random.Random(20261125)
    with serving(site) as server, cable_to(server) as (cable, address), chromium() as page:
        page.add_init_script(WATCH)
        page.goto(address)
        page.wait_for_selector("#run")
        page.frame_locator("#view").locator("canvas").last.wait_for(timeout=PATIENCE_S * 1000)
        page.get_by_label("Iterations").fill(str(LONG))
        page.click("#run")
        until(lambda: iteration(page) > 0)
        run = site.manager.current()
        assert run is not None

        def goes_on(what: str) -> None:
            """The page tells of iterations, and the view draws pictures, that came after what happened."""
            before, pictures = run.view.iteration, drawn(page)
            told = until(lambda: iteration(page) > before)
            if what in ("snap", "offline"):  # it draws in software, which takes its time after the page was loaded anew
                until(lambda: drawn(page) > (pictures if what == "snap" else 0) + 2)
            print(f"{what}: told again after {told:.1f} s")
            assert page.locator("#stop").is_enabled()  # it is still this visitor's
            time.sleep(chance.random())

        until(lambda: drawn(page) > 3)
        assert cable.snap() > 0  # the socket of the view and Gradio's stream break, the network stays
        goes_on("snap")
        page.reload()
        goes_on("reload")
        for seconds in (0.3, 3.0):
            cable.cut()
            time.sleep(seconds)
            cable.mend()
            goes_on(f"cut for {seconds} s")
        page.context.set_offline(True)
        until(lambda: page.evaluate("document.documentElement.classList.contains('away')"))
        page.context.set_offline(False)
        goes_on("offline")
        page.close()
        at_close = run.view.iteration
        until(lambda: run.view.iteration > at_close + 20)

        assert site.manager.current() is run and not run.view.ended
        site.manager.stop(run.id)
        assert run.wait(20)
        lines = (run.folder.path / "metrics.jsonl").read_text("utf-8").splitlines()
        told = [json.loads(line)["iteration"] for line in lines]
        assert told == list(range(told[0], told[0] + len(told))) and len(told) >= run.view.iteration - 1


def test_a_cable_that_is_cut_lets_nothing_through(tmp_path: Path) -> None:
    with serving(stand_in_site(tmp_path, load_preset("mushroom"))) as server, cable_to(server) as (cable, address):
        assert isinstance(cable, Cable) and httpx.get(f"{address}healthz").status_code == 200
        cable.cut()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}healthz")
        cable.mend()
        assert httpx.get(f"{address}healthz").status_code == 200
