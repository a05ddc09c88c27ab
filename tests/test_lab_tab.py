"""The Lab: figures take their turn among the runs, are shown, stopped, kept and found again; nothing else leaves its folder."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, serving, stand_in_site
from fake_training import fake_make_trainer
from fastapi.testclient import TestClient

from dreamerxl.config import Settings, load_preset, load_settings
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.guidance.hub import Say
from dreamerxl.lab import figures
from dreamerxl.lab.figures import Figure
from dreamerxl.lab.sweep import load_sweep
from dreamerxl.runs.manager import RunManager
from dreamerxl.web import lab_desk
from dreamerxl.web.gateway import make_gateway
from dreamerxl.web.lab import figure_cards, job_cards, toy_picture
from dreamerxl.web.lab_desk import Job, LabDesk, typed_sweep

SETTINGS = Settings(prompt="a <b>bold</b> duck", iterations=3)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[RunManager]:
    manager = RunManager(tmp_path, fake_make_trainer())
    yield manager
    manager.close()


@pytest.fixture
def lab(manager: RunManager) -> Iterator[LabDesk]:
    lab = LabDesk(manager)
    yield lab
    lab.close()


def drawing(work: Callable[[Say], None] = lambda say: None) -> Callable[..., Figure]:
    """Stands for a figure that needs a model: notes the thread it runs on."""

    def make(settings: Settings, make_trainer: Any, say: Say) -> Figure:
        work(say)
        trainer = make_trainer(settings, say).trainer
        return Figure("6", "A test", ".svg", b"<svg/>", {"thread": threading.current_thread().name, "sides": len(trainer.sides)})

    return make


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def job_of(lab: LabDesk, job: Job) -> Job:
    return next(other for other in lab.jobs() if other.id == job.id)


def use(monkeypatch: pytest.MonkeyPatch, make: Callable[..., Figure]) -> None:
    monkeypatch.setitem(figures.FIGURES, "6", ("a test", make))


def test_a_figure_is_made_by_the_worker_in_its_turn(lab: LabDesk, manager: RunManager, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    use(monkeypatch, drawing(lambda say: order.extend(run.view.status for run in (before, after))))
    before = manager.submit(SETTINGS)
    job = lab.order("6", SETTINGS, "me")
    after = manager.submit(SETTINGS)
    assert [run.id for run in manager.queue() if run is before] in ([], [before.id])
    until(lambda: job_of(lab, job).ended)
    assert job_of(lab, job).status == "done"
    assert order == ["done", "queued"]
    assert after.wait(20) and after.view.status == "done"
    told = json.loads((lab.folder / job.id / "figure-6.json").read_text())
    assert told["data"] == {"thread": "dreamerxl-worker", "sides": 2}
    assert load_settings(lab.folder / job.id / "settings.yaml") == SETTINGS


def test_runs_behind_a_figure_are_told_their_place(lab: LabDesk, manager: RunManager, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    use(monkeypatch, drawing(lambda say: go.wait(20) and None))
    lab.order("6", SETTINGS, "me")
    until(lambda: lab.jobs()[0].status == "working")
    second = lab.order("6", SETTINGS, "me")
    run = manager.submit(SETTINGS)
    assert (manager.current(), run.view.queue_position) == (None, 2)
    go.set()
    assert run.wait(20)
    assert job_of(lab, second).status == "done"


def test_a_toy_is_made_while_the_worker_is_busy(lab: LabDesk, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    use(monkeypatch, drawing(lambda say: go.wait(20) and None))
    slow, toy = lab.order("6", SETTINGS, "me"), lab.order("3", SETTINGS, "me")
    until(lambda: job_of(lab, toy).ended)
    assert job_of(lab, toy).files == ("figure-3.svg", "figure-3.json", "settings.yaml")
    assert job_of(lab, slow).status in ("queued", "working")
    go.set()
    until(lambda: job_of(lab, slow).ended)


def test_a_figure_shows_its_progress_and_its_owner_can_stop_it(lab: LabDesk, monkeypatch: pytest.MonkeyPatch):
    def forever(say: Say) -> None:
        for count in range(10**6):
            say(f"At {count}.")
            time.sleep(0.005)

    use(monkeypatch, drawing(forever))
    job, waiting = lab.order("6", SETTINGS, "me"), lab.order("6", SETTINGS, "me")
    until(lambda: re.match(r"At \d+", job_of(lab, job).stage))
    with pytest.raises(DreamerError, match="another visitor"):
        lab.stop(job.id, "you")
    with pytest.raises(DreamerError, match="still being made"):
        lab.delete(job.id, "me")
    lab.stop(waiting.id, "me")
    assert job_of(lab, waiting).status == "stopped"
    lab.stop(job.id, "me")
    until(lambda: job_of(lab, job).ended)
    assert job_of(lab, job).status == "stopped" and job_of(lab, job).files == ()


def test_a_failure_is_a_sentence(lab: LabDesk, monkeypatch: pytest.MonkeyPatch):
    def fail(say: Say) -> None:
        raise DreamerError("The moon is full.")

    def break_(say: Say) -> None:
        raise ZeroDivisionError("secret")

    for broken, said in ((fail, "The moon is full."), (break_, "the program's log")):
        use(monkeypatch, drawing(broken))
        job = lab.order("6", SETTINGS, "me")
        until(lambda job=job: job_of(lab, job).ended)
        found = job_of(lab, job)
        assert found.status == "failed" and said in found.stage and "secret" not in found.stage


@pytest.mark.parametrize(("name", "prompt", "said"), [("5", "a duck", "no figure '5'"), ("6", " ", "prompt is empty")])
def test_what_cannot_be_made_is_refused(lab: LabDesk, name: str, prompt: str, said: str):
    with pytest.raises(DreamerError, match=said):
        lab.order(name, Settings(prompt=prompt), "me")
    assert lab.jobs() == []


def test_there_is_an_end_to_what_waits(lab: LabDesk, manager: RunManager, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    use(monkeypatch, drawing(lambda say: go.wait(20) and None))
    for count in range(lab_desk.MOST_WAITING):
        lab.order("6", SETTINGS, f"visitor {count // lab_desk.MOST_OWN}")
        if count == lab_desk.MOST_OWN - 1:
            with pytest.raises(DreamerError, match="3 of yours are being made or wait"):
                lab.order("6", SETTINGS, "visitor 0")
    with pytest.raises(DreamerError, match="8 of these are being made or wait"):
        lab.order("6", SETTINGS, "another")
    lab.close()
    go.set()
    until(lambda: all(job.ended for job in lab.jobs()))


def test_figures_of_an_earlier_program_are_found_and_served(lab: LabDesk, manager: RunManager, tmp_path: Path):
    job = lab.order("3", SETTINGS, "me")
    until(lambda: job_of(lab, job).ended)
    (lab.folder / "20260101-000000-abcdef").mkdir()
    (lab.folder / "20260101-000000-abcdef" / "job.json").write_text(
        json.dumps({**job_of(lab, job).__dict__, "id": "20260101-000000-abcdef", "files": ["../../secret"]})
    )
    (tmp_path / "secret").write_text("x")
    again = LabDesk(manager)
    assert [found.id for found in again.jobs()] == [job.id]
    site = TestClient(make_gateway("127.0.0.1:1", lambda run_id: None, dict, lab_file=again.file))
    answer = site.get(f"/lab/{job.id}/files/figure-3.svg")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.text.startswith("<svg")
    assert site.get(f"/lab/{job.id}/files/settings.yaml").headers["content-disposition"].startswith("attachment")
    for address in (f"{job.id}/files/job.json", f"{job.id}/files/..%2f..%2fsecret", "20260101-000000-abcdef/files/secret"):
        assert site.get(f"/lab/{address}").status_code == 404
    again.delete(job.id, "me")
    assert again.jobs() == [] and not (lab.folder / job.id).exists()
    again.close()


def test_a_sweep_is_run_in_the_queue_and_reported(lab: LabDesk, manager: RunManager):
    sweep = typed_sweep(SETTINGS, "variants.gamma", " 0,0.3 ", "a red duck\n\n a blue house ", 1)
    assert [case.changes for case in sweep.cases] == [{"variants.gamma": 0}, {"variants.gamma": 0.3}]
    assert (sweep.prompts, sweep.seeds, sweep.baseline) == (("a red duck", "a blue house"), (0,), "gamma 0")
    job = lab.order_sweep(sweep, "me")
    behind = manager.submit(SETTINGS)
    until(lambda: job_of(lab, job).ended)
    found = job_of(lab, job)
    assert found.status == "done"
    assert found.files == ("differences.svg", "report.html", "data.json", "sweep.yaml")
    folder = lab.folder / job.id
    assert json.loads((folder / "data.json").read_text())["runs"] == {"done": 2, "failed": 0, "missing": 0}
    assert not (folder / "runs").exists()
    assert "gamma 0.3" in (folder / "differences.svg").read_text()
    again = load_sweep(folder / "sweep.yaml")
    assert [task.id for task in again.tasks()] == [task.id for task in sweep.tasks()]
    assert behind.wait(60) and behind.view.status == "done"


def test_a_sweep_can_be_stopped_between_its_runs(lab: LabDesk):
    job = lab.order_sweep(typed_sweep(SETTINGS, "variants.method", "ism, tsm", "\n".join(f"duck {k}" for k in range(8)), 3), "me")
    until(lambda: "runs are done" in job_of(lab, job).stage)
    lab.stop(job.id, "me")
    until(lambda: job_of(lab, job).ended)
    assert job_of(lab, job).status == "stopped"
    assert 0 < len(list((lab.folder / job.id / "outcomes").iterdir())) < 24


@pytest.mark.parametrize(
    ("setting", "values", "prompts", "seeds", "said"),
    [
        ("variants.gamma", "0, 2", "", 1, "gamma 2.*0 to 1 is accepted"),
        ("variants.gamma", " , ", "", 1, "0 values; 1 to 8"),
        ("variants.gamma", "1,1", "", 1, "twice"),
        ("variants.gamma", "1", "a\n" * 9, 1, "9 prompts"),
        ("variants.gamma", "1", "", 4, "4 seeds; 1 to 3"),
        ("variants.nose", "1", "", 1, "not a setting"),
        ("variants.gamma", "!!python/object:os.system", "", 1, "a number is accepted"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(setting: str, values: str, prompts: str, seeds: int, said: str):
    with pytest.raises(SettingsError, match=said):
        typed_sweep(SETTINGS, setting, values, prompts, seeds)


def test_what_is_shown_is_escaped_and_whole():
    mine = Job("20260101-000000-abcdef", "6", "a <b>bold</b> duck", 0.0, lab_desk.key_of("me"), "done", "", ("figure-6.png",))
    shown = job_cards([mine], "me")
    assert "<b>bold</b>" not in shown and "&lt;b&gt;bold" in shown
    assert 'data-do="delete:20260101-000000-abcdef"' in shown and "data-do" not in job_cards([mine], "you")
    assert 'src="lab/20260101-000000-abcdef/files/figure-6.png"' in shown
    assert re.findall(r'data-do="make:(\w+)"', figure_cards()) == list(figures.FIGURES)


@pytest.mark.parametrize(
    ("sliders", "title"),
    [((900, 800, 810, 200), "t = 900, s = 800"), ((500, 800, 10, 5000), "t = 500, s = 499"), ((2, 1, 999, 1), "t = 2, s = 1")],
)
def test_the_toy_answers_to_every_place_of_its_sliders(sliders: tuple[int, int, int, int], title: str):
    shown = toy_picture(*sliders)
    assert title in shown and shown.count("download=") == 2


def test_the_lab_in_a_browser(tmp_path: Path):
    with serving(stand_in_site(tmp_path, load_preset("mushroom"), seconds=0.01)) as address, chromium() as page:
        page.goto(address)
        page.get_by_role("tab", name="Lab").click()
        title = page.locator("#toy-picture svg .head")
        title.wait_for()
        assert "t = 900, s = 800" in title.text_content()
        page.locator("#toy-sliders input[type=number]").first.fill("600")
        page.keyboard.press("Tab")
        page.wait_for_function("document.querySelector('#toy-picture svg .head').textContent.includes('t = 600, s = 599')")
        page.locator('[data-do="make:3"]').click()
        picture = page.locator("#lab-made img")
        picture.wait_for()
        page.wait_for_function("document.querySelector('#lab-made img').naturalWidth > 0")
        with page.expect_download() as saving:
            page.get_by_role("link", name="figure-3.json").click()
        told = json.loads(Path(saving.value.path()).read_text())
        assert [row["mu"] for row in told["data"]["rows"]] == [800, 801, 810]
        page.get_by_label("Values").fill("0, nothing")
        page.get_by_role("button", name="Run the sweep").click()
        page.get_by_text("a number is accepted").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete").first.click()
        page.wait_for_function("!document.querySelector('#lab-made article')")
