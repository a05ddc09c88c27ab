"""What runs that are started and stopped, and visitors who come and go, leave behind: nothing."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import serving, stand_in_site
from fake_training import FakeTrainer, decode
from visitor import Visitor, wait_until

from benchmarks.footprint import footprint, largest
from benchmarks.start_stop import start_and_stop
from dreamerxl.config import Settings, load_preset
from dreamerxl.runs import trim
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import Prepared
from dreamerxl.web import sessions, takeaway
from dreamerxl.web.desk import Desk
from dreamerxl.web.serve import Site

WARM = 4  # cycles in which the model is loaded and kernels are compiled
SETTINGS = Settings(prompt="a red duck").override(
    {"views.batch": 1, "views.resolution": 32, "initialization.count": 500, "checkpoint_every": 2, "iterations": 1000}
)


def test_starting_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    tally = start_and_stop(tmp_path, SETTINGS, WARM + 8)
    first, most = tally.left[WARM], largest(tally.left[WARM:])
    assert most.resident_mb <= 1.05 * first.resident_mb
    assert (most.threads, most.files, most.sockets) == (first.threads, first.files, first.sockets)
    assert max(tally.iterations) <= 2


@pytest.mark.skipif(trim._malloc_trim is None, reason="the C library is not glibc")
def test_what_a_run_or_a_capture_freed_goes_back_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[Any] = []

    def in_pieces(*_: Any, **__: Any) -> None:
        """Take 200 MB in pieces and let go of all but the newest, which holds back those below it."""
        del (taken := [np.ones(90_000, np.uint8) for _ in range(2_330)])[:-1]
        pieces.extend(taken)

    class Trainer(FakeTrainer):
        def step(self) -> Any:
            in_pieces()
            return super().step()

    manager = RunManager(tmp_path, lambda settings, say: Prepared(Trainer(settings), decode))
    desk = Desk(manager)
    try:
        before = footprint().resident_mb
        run = manager.submit(SETTINGS.override({"iterations": 1}))
        assert run.wait(60)
        manager.call(lambda _: None).result(60)  # the worker has gone on
        assert footprint().resident_mb - before < 100
        monkeypatch.setattr(takeaway, "make", in_pieces)
        desk.order(run.id, "turntable.mp4")
        wait_until(lambda: not desk.orders(run.id))
        assert footprint().resident_mb - before < 100 and len(pieces) == 2
    finally:
        manager.close()
        desk.close()


def remembered_by(site: Site) -> Any:
    """What Gradio remembers of the pages that are open."""
    return next(route.app.state_holder for route in site.app.routes if hasattr(getattr(route, "app", None), "state_holder"))  # type: ignore[attr-defined]


def test_pages_that_were_left_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 4)
    site = stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.001)
    remembered = remembered_by(site)
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        staying = Visitor(client)
        staying.fill(Prompt="a red ball", Iterations=5)
        assert staying.press("run") == "" and site.manager.runs()
        first, second = (site.manager.submit(load_preset("mushroom").override({"iterations": 3})) for _ in range(2))
        assert first.wait(30) and second.wait(30)
        assert first.id in str(staying.fire("runs", data={"name": f"open:{first.id}"})["runs"])
        for _ in range(12):
            Visitor(client).look()
            staying.look()
        assert len(remembered.session_data) == 4 and staying.session in remembered.session_data
        assert f'data-run="{first.id}"' in staying.look()["files"], "who stays still looks back at that run"


def test_a_page_that_stays_open_does_not_gather_what_it_showed(tmp_path: Path) -> None:
    site = stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.02)
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        page = Visitor(client)
        page.fill(Prompt="a red ball", Iterations=5000)
        assert page.press("run") == ""
        shown: set[str] = set()
        while len(shown) < 6:  # each after a look that brought no new pictures, and with a form that was filled in between
            shown |= {page.look()["strips"], page.look()["strips"]}
            page.press("swap")
        kept = remembered_by(site).session_data[page.session]
        assert set(kept.blocks_config.blocks) == set(page.components)
        assert not [text for text in shown if text[:2000] in repr(kept.config_values)]


def test_what_is_held_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    before = footprint()
    with mmap.mmap(-1, 50 * 2**20) as held, open(tmp_path / "file", "w"):  # new memory, not what Python had let go of
        held.write(b"x" * len(held))
        during = footprint()
    assert during.resident_mb - before.resident_mb > 40 and during.files >= before.files + 1
