"""What runs that are started and stopped, and visitors who come and go, leave behind: nothing."""

from __future__ import annotations

import mmap
from pathlib import Path

import httpx
import pytest
from browser import serving, stand_in_site
from visitor import Visitor

from benchmarks.footprint import footprint, largest
from benchmarks.start_stop import start_and_stop
from dreamerxl.config import Settings, load_preset
from dreamerxl.web import serve

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


def test_pages_that_were_left_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MOST_SESSIONS", 4)
    site = stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.001)
    remembered = next(route.app.state_holder for route in site.app.routes if hasattr(getattr(route, "app", None), "state_holder"))  # type: ignore[attr-defined]
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


def test_what_is_held_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    before = footprint()
    with mmap.mmap(-1, 50 * 2**20) as held, open(tmp_path / "file", "w"):  # new memory, not what Python had let go of
        held.write(b"x" * len(held))
        during = footprint()
    assert during.resident_mb - before.resident_mb > 40 and during.files >= before.files + 1
