"""What can be taken away, past runs, and who may touch them; all through a manager with a stand-in trainer."""

from __future__ import annotations

import dataclasses
import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_training import ball, fake_make_trainer

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.gaussians.scene import freeze
from dreamerxl.runs import capture, films
from dreamerxl.runs.growth import moments
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.metadata import read_about, settings_of
from dreamerxl.runs.run import Run, RunView
from dreamerxl.web import desk as desk_module
from dreamerxl.web import recording, shelf, takeaway
from dreamerxl.web.cards import curves, status
from dreamerxl.web.desk import Desk, differing
from dreamerxl.web.past import MOST, Past, scenes_of

SETTINGS = Settings(prompt="a <red> bagel", iterations=6)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films of a few small frames."""
    for function in (films.turntable, films.growth, capture.contact_sheet):
        monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | {"tile": 48})
    monkeypatch.setattr(films.turntable, "__kwdefaults__", films.turntable.__kwdefaults__ | {"frames": 2})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    manager = RunManager(tmp_path, fake_make_trainer())
    made = Desk(manager)
    yield made
    manager.close()
    made.close()


def wait_for(condition: Any) -> Any:
    deadline = time.monotonic() + 30
    while not (outcome := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return outcome


def finished(desk: Desk, owner: str = "me", **changes: Any) -> Run:
    run = desk.manager.get(desk.submit(dataclasses.replace(SETTINGS, **changes), owner).id)
    assert run.wait(30)
    return run


def links(html: str) -> list[str]:
    return re.findall(r'href="[^"]*/files/([^"]+)" download', html)


def buttons(html: str) -> list[str]:
    return re.findall(r'data-make="([^"]+)"', html)


@pytest.mark.parametrize(
    "name",
    [*capture.CAPTURES, "scene.html", "growth.viser", "0-ism.ply", "1-tsm.splat", "0-ism.spz", "1-tsm.glb", "sides.spz.zip"],
)
def test_everything_on_the_shelf_can_be_made_and_then_leaves_the_folder(desk: Desk, name: str, monkeypatch: pytest.MonkeyPatch):
    if name.endswith(".glb"):
        solid = dataclasses.replace(freeze(ball(2000)), scales=np.full((2000, 3), 0.12, np.float32))
        monkeypatch.setattr(takeaway, "run_sides", lambda view: [takeaway.recording.Side("A", "", solid)] * 2)
    run = finished(desk)
    assert name in {*buttons(shelf.takeaway(run.view, {})), *links(shelf.takeaway(run.view, {}))}
    path = takeaway.make(run.view, name)
    assert path.is_file() and takeaway.place_of(run.folder.path, name) is not None
    assert name in links(shelf.takeaway(run.view, {}))
    if path.suffix in (".png", ".mp4", ".ply", ".glb", ".html"):
        assert settings_of(read_about(path)) == run.view.settings
    if path.suffix == ".zip":
        assert zipfile.ZipFile(path).namelist() == ["0-ism.spz", "1-tsm.spz"]


@pytest.mark.parametrize(
    "name", ["../run.json", "5-ism.ply", "0-tsm.spz", "x.mp4", "0-ism.exe", "sides.zip", "", "scenes/0-ism.ply"]
)
def test_nothing_else_is_made_or_leaves(desk: Desk, name: str):
    run = finished(desk)
    with pytest.raises(DreamerError):
        takeaway.make(run.view, name)
    assert takeaway.place_of(run.folder.path, name) is None


def test_a_link_out_of_the_folder_is_not_followed(desk: Desk, tmp_path: Path):
    run = finished(desk)
    secret = tmp_path / "secret"
    secret.write_text("x")
    (run.folder.captures / "growth.mp4").symlink_to(secret)
    assert takeaway.place_of(run.folder.path, "growth.mp4") is None


def test_orders_are_made_in_turn_and_failures_are_told(desk: Desk):
    run = finished(desk)
    desk.order(run.id, "0-ism.spz")
    wait_for(lambda: "0-ism.spz" in links(shelf.takeaway(run.view, desk.orders(run.id))))
    for path in run.folder.growth.iterdir():
        path.unlink()
    desk.order(run.id, "growth.mp4")
    wait_for(lambda: desk.orders(run.id).get("growth.mp4"))
    assert "growth.mp4: This run kept no moments" in shelf.takeaway(run.view, desk.orders(run.id))
    with pytest.raises(DreamerError):
        desk.order("20200101-000000-ffffff", "growth.mp4")


def test_what_could_not_be_made_is_told_of_the_latest_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk_module, "MOST_FAILURES", 3)
    run = finished(desk)
    with pytest.raises(DreamerError, match=r"'x{40}' is nothing that is made of a run"):
        desk.order(run.id, "x" * 4_000_000)
    for side in range(2, 7):
        desk.order(run.id, name := f"{side}-ism.spz")
        assert "no side" in wait_for(lambda name=name: desk.orders(run.id).get(name))
    assert [name for name, failure in desk.orders(run.id).items() if failure] == ["4-ism.spz", "5-ism.spz", "6-ism.spz"]


def test_what_was_made_while_a_run_went_on_is_not_passed_off_as_its_end(desk: Desk):
    run = finished(desk)
    path = takeaway.make(run.view, "0-ism.spz")
    going = dataclasses.replace(run.view, status="running")
    begun = min(scene.stat().st_mtime for scene in run.folder.scenes.iterdir())
    os.utime(path, (begun - 5, begun - 5))
    assert "0-ism.spz" in links(shelf.takeaway(going, {})) and "0-ism.spz" in buttons(shelf.takeaway(going, {}))
    assert "0-ism.spz" not in links(shelf.takeaway(run.view, {})) and "0-ism.spz" in buttons(shelf.takeaway(run.view, {}))


def test_what_is_being_made_is_said(desk: Desk):
    html = shelf.takeaway(finished(desk).view, {"growth.mp4": ""})
    assert "Growth <small>is being made" in html and "growth.mp4" not in buttons(html)


def test_a_screenshot_of_a_size_that_is_too_large_is_refused_in_a_sentence(desk: Desk):
    run = finished(desk)
    desk.order(run.id, "screenshot.png", width=99_999, height=64)
    assert "64 to 4096" in wait_for(lambda: desk.orders(run.id).get("screenshot.png"))


def test_a_run_is_done_again_with_the_same_seed_and_settings_or_goes_on(desk: Desk):
    run = finished(desk, seed=5)
    again = desk.manager.get(desk.again(run.id, "you").id)
    assert again.wait(30) and again.submitted == run.submitted and again.view.owner == "you"
    for name in ("0-ism.ply", "1-tsm.ply"):
        np.testing.assert_array_equal(read_ply(run.folder.scenes / name).means, read_ply(again.folder.scenes / name).means)
    longer = desk.manager.get(desk.run_on(run.id, "you", 4).id)
    assert longer.wait(30) and longer.view.iteration == 10


def test_only_the_owner_deletes_a_run_also_after_a_restart(desk: Desk):
    run = finished(desk)
    for stranger in ("you", "", None):
        with pytest.raises(DreamerError, match="another visitor"):
            desk.delete(run.id, stranger)
    second = RunManager(desk.manager.runs_dir, fake_make_trainer())
    later = Desk(second)
    with pytest.raises(DreamerError, match="another visitor"):
        later.delete(run.id, "you")
    later.delete(run.id, "me")
    assert not run.folder.path.exists() and later.listed() == []
    second.close()
    later.close()


def test_past_runs_are_found_by_their_words_and_escape_them(desk: Desk):
    bagel, dog = finished(desk), finished(desk, "you", prompt="a dog")
    assert [view.id for view in desk.listed()] == [dog.id, bagel.id] or desk.listed()[0].created == desk.listed()[1].created
    assert [view.id for view in desk.listed("BAGEL tsm")] == [bagel.id]
    assert desk.listed("nothing like it") == []
    wait_for(lambda: takeaway.place_of(bagel.folder.path, "thumbnail.png"))
    html = shelf.gallery(desk.listed(), "me", [bagel.id])
    assert "<red>" not in html and "&lt;red&gt;" in html and "thumbnail.png" in html
    assert re.findall(r'data-do="delete:([^"]+)"', html) == [bagel.id]
    assert html.count(" checked") == 1
    assert "No run" in shelf.gallery([], "me")


def test_a_comparison_shows_what_differs_and_nothing_else(desk: Desk):
    views = [finished(desk).view, finished(desk, seed=9, prompt="b").view]
    rows = dict(differing(views))
    assert rows == {"prompt": ["a <red> bagel", "b"], "seed": ["0", "9"]}
    html = shelf.comparison(views, differing(views))
    assert "<red>" not in html and html.count('<th scope="col">') == 2 and "gradient norm, at the end" in html
    assert shelf.comparison(views[:1], []) == ""


def test_the_expected_wait_counts_the_runs_ahead(desk: Desk):
    class Now:
        view = dataclasses.replace(finished(desk).view, status="running", its_per_s=2.0, eta_s=30.0)

    ahead, mine = (dataclasses.replace(Now.view, status="queued", queue_position=k, id=f"{k}") for k in (1, 2))
    queue = [type("R", (), {"view": view})() for view in (ahead, mine)]
    desk.manager.current, desk.manager.queue = lambda: Now, lambda: tuple(queue)  # type: ignore[method-assign,assignment]
    assert desk.wait_s(mine) == 30 + 6 / 2 and desk.wait_s(ahead) == 30
    line = status(Now.view, 2, mine, "", desk.wait_s(mine))
    assert "yours is number 2" in line and "begins in about 0:33" in line
    del desk.manager.current, desk.manager.queue  # type: ignore[attr-defined]


def test_live_changes_are_marked_in_the_curves(tmp_path: Path):
    manager = RunManager(tmp_path, fake_make_trainer())
    run = manager.submit(SETTINGS)
    manager.change(run.id, 1, {"gamma": 0.6})
    assert run.wait(30)
    manager.close()
    html = curves(run.view)
    assert html.count("<svg") == 3 and "Judge" not in html  # no judge, no empty chart
    assert html.count('class="change"') == 3 and "gamma = 0.6 on side 1. (iteration 0)" in html


def test_visitors_look_at_the_past_in_views_of_their_own(desk: Desk):
    run = finished(desk)
    past = Past()
    try:
        keys = [past.show(f"visitor {k}", run.view, 2) for k in range(MOST + 1)]
        assert len(set(keys)) == MOST + 1 and past.address(keys[0]) is None  # it was the longest ago
        addresses = {past.address(key) for key in keys[1:]}
        assert len(addresses) == MOST and None not in addresses
        assert past.show("visitor 3", run.view) == keys[3]
        with pytest.raises(DreamerError, match="was not kept"):
            past.show("visitor 3", run.view, 999)
    finally:
        past.close()
    assert past.address(keys[3]) is None


def test_a_run_that_never_wrote_its_scenes_is_shown_at_its_last_moment(desk: Desk):
    run = finished(desk)
    run.forget_snapshot()
    for path in run.folder.scenes.iterdir():
        path.unlink()
    last = moments(run.folder.growth, 2)[-1]
    np.testing.assert_array_equal(scenes_of(run.view, None)[0].means, scenes_of(run.view, last)[0].means)


def test_a_page_and_a_recording_need_no_server(desk: Desk):
    run = finished(desk)
    page = takeaway.make(run.view, recording_page := "scene.html").read_text(encoding="utf-8")
    assert recording_page and "<red>" not in page and "__VISER_EMBED_DATA__" in page
    assert not re.search(r'(?:src|href)="https?://', page)
    assert takeaway.make(run.view, "growth.viser").stat().st_size > 1000
    assert recording.MOST_MOMENTS >= 2


def test_labels_hold_no_markup(desk: Desk):
    view: RunView = dataclasses.replace(finished(desk).view, model="<m>")
    assert "<m>" not in shelf.takeaway(view, {"<x>": "<why>"}) and "<why>" not in shelf.takeaway(view, {"<x>": "<why>"})
