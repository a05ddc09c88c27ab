"""What a public page lets its visitors ask for, and a page that only replays; over HTTP, as the page's own script speaks."""

from __future__ import annotations

import dataclasses
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from browser import growing_trainer, serving
from fake_training import fake_make_trainer
from visitor import Visitor, wait_until

from dreamerxl.config import Settings, load_preset
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.lab.sweep import Case, Sweep
from dreamerxl.runs.limits import VARIABLES, Limits, read_limits
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import Run
from dreamerxl.runs.worker import MakeTrainer, Pace
from dreamerxl.web.desk import Desk
from dreamerxl.web.offer import Offer
from dreamerxl.web.serve import Site, make_site

ROOT = Path(__file__).parent.parent
FIRST = load_preset("mushroom")


@contextmanager
def opened(folder: Path, limits: Limits, make: MakeTrainer | None = None) -> Iterator[tuple[Site, httpx.Client]]:
    """A site with limits, and a client of it."""
    manager = RunManager(folder, make or growing_trainer(0.02), limits, pace=Pace(snapshot_seconds=0.4))
    site = make_site(manager, Offer(FIRST, model_line="a stand-in model"))
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        yield site, client


def newcomer(client: httpx.Client) -> Visitor:
    visitor = Visitor(client, secrets.token_urlsafe(16))
    visitor.fire("arrive", "load")
    return visitor


def put(visitor: Visitor, label: str, value: object) -> None:
    """Type into the control of that very label."""
    found = [key for key, entry in visitor.components.items() if entry["type"] == "number" and entry["props"]["label"] == label]
    assert len(found) == 1
    visitor.values[found[0]] = value


def finished(manager: RunManager, **changes: object) -> Run:
    run = manager.submit(dataclasses.replace(Settings(prompt="a red bagel", iterations=6), **changes), "someone")
    assert run.wait(30)
    return run


def test_the_environment_is_read_strictly() -> None:
    assert read_limits({}) == read_limits({name: "" for name in VARIABLES}) == Limits()
    told = {"DREAMERXL_MOST_ITERATIONS": "400", "DREAMERXL_MOST_SECONDS": "600", "DREAMERXL_MOST_WAITING": "4"}
    more = {
        "DREAMERXL_MOST_GAUSSIANS": "12000",
        "DREAMERXL_MOST_PIXELS": "131072",
        "DREAMERXL_MOST_OWN": "1",
        "DREAMERXL_MOST_KEPT": "9",
    }
    wanted = Limits(iterations=400, seconds=600, gaussians=12_000, pixels=131_072, waiting=4, own=1, kept=9, replay=True)
    assert read_limits({**told, **more, "DREAMERXL_REPLAY": "1"}) == wanted
    for name, (_, low, high) in VARIABLES.items():
        for value in ("many", "-1", "0", "1.5", "1_0", "٣", str(high + 1), "9" * 400):
            with pytest.raises(SettingsError, match=rf"{name} is '.{{1,40}}'; a whole number from {low} to {high} is accepted\."):
                read_limits({name: value})
    with pytest.raises(SettingsError, match=r"DREAMERXL_REPLAY is 'yes'; 1 \(.*\) or 0 is accepted\."):
        read_limits({"DREAMERXL_REPLAY": "yes"})
    with pytest.raises(SettingsError, match="DREAMERXL_MOST_ITERATION is no limit; the nearest is DREAMERXL_MOST_ITERATIONS"):
        read_limits({"DREAMERXL_MOST_ITERATION": "400"})


def test_every_limit_is_in_the_documents() -> None:
    said = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert {*re.findall(r"DREAMERXL_MOST_[A-Z]+", said)} == {*VARIABLES}
    for name, (_, low, high) in VARIABLES.items():
        assert re.search(rf"\| `{name}` \|.*\| {low} to {high} \|", said), name


def test_what_cannot_be_served_is_said_before_anything_starts(tmp_path: Path) -> None:
    def start(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "app.py", "--port", "0", "--guidance", "embedded", "--device", "cpu", *arguments]
        done = subprocess.run(command, cwd=ROOT, env={**dict(PATH=""), **variables}, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    assert start(DREAMERXL_MOST_OWN="none") == "DREAMERXL_MOST_OWN is 'none'; a whole number from 1 to 1000 is accepted.\n"
    told = f"There is no finished run in {tmp_path} to replay; name another folder with --runs-dir.\n"
    assert start("--replay", DREAMERXL_RUNS_DIR=str(tmp_path)) == told


def test_visitors_are_told_what_is_too_much(tmp_path: Path) -> None:
    with opened(tmp_path, Limits(50, 600, 2000, 128 * 128 * 2, waiting=2, own=1, kept=50)) as (site, client):
        visitor, other = newcomer(client), newcomer(client)
        shown = next(e["props"]["value"] for e in visitor.components.values() if e["props"].get("elem_id") == "limits")
        assert (
            "Here: at most 50 iterations a run, 600 s of training, 2,000 Gaussians on a side, 32,768 pixels an iteration" in shown
        )
        assert "1 at a time for each visitor, 2 in the queue, the newest 50 runs are kept." in shown
        assert visitor.fire("gallery", data={"name": "duck"})["Iterations"] == 50  # the preset's 400 are not to be had

        visitor.fill(Iterations=51)
        assert "That is 51 iterations; at most 50 are accepted here." in visitor.press("run")
        visitor.fill(Iterations=50)
        put(visitor, "Views per iteration", 3)
        assert "That is 49,152 pixels an iteration; at most 32,768 are accepted here." in visitor.press("run")
        put(visitor, "Views per iteration", 2)
        put(visitor, "Gaussians", 2001)
        assert "That is 2,001 Gaussians on a side; at most 2,000 are accepted here." in visitor.press("run")
        put(visitor, "Gaussians", 2000)
        assert visitor.press("run") == ""
        run = wait_until(site.manager.current)
        visitor.fill(Seed=5)
        assert "1 run of yours waits or goes on already, and 1 at a time is accepted here" in visitor.press("run")
        assert other.press("run") == "" and len(site.manager.queue()) == 1
        assert visitor.press("stop") == "" and run.wait(20)
        assert visitor.press("run") == ""  # what has ended does not count

        other.press("stop"), visitor.press("stop")
        ended = site.manager.submit(site.manager.limits.fit(dataclasses.replace(FIRST, iterations=40)))
        assert ended.wait(60)
        visitor.fire("runs", data={"name": f"open:{ended.id}"})
        assert "That is 60 iterations" in visitor.press("on")


def test_a_run_ends_with_its_time_and_keeps_its_scenes(tmp_path: Path) -> None:
    manager = RunManager(tmp_path, fake_make_trainer(0.05), Limits(seconds=1))
    run = manager.submit(Settings(prompt="a red bagel", iterations=100_000))
    assert run.wait(30)
    assert (run.view.status, run.view.reason) == ("stopped", "Stopped, with its scenes kept: a run may train for 1 s here.")
    assert run.view.iteration <= 20 and len([*run.folder.scenes.glob("*.ply")]) == 2  # a step takes 0.05 s at least
    manager.close()


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    manager = RunManager(tmp_path, fake_make_trainer())
    old = [finished(manager) for _ in range(3)]
    manager.close()
    manager = RunManager(tmp_path, fake_make_trainer(), Limits(kept=2))
    newest = finished(manager)
    wait_until(lambda: len([*tmp_path.glob("*/run.json")]) == 2)
    assert {view.id for view in manager.runs()} == {old[2].id, newest.id}
    assert not old[0].folder.path.exists() and not old[1].folder.path.exists()
    manager.close()


def test_a_sweep_counts_the_iterations_of_all_its_runs(tmp_path: Path) -> None:
    manager = RunManager(tmp_path, fake_make_trainer(), Limits(iterations=50))
    desk = Desk(manager)
    base = dataclasses.replace(FIRST, iterations=30)
    cases = tuple(Case(f"gamma {value}", {"variants.gamma": value}) for value in (0.0, 0.3, 1.0))
    sweep = Sweep("gamma", "", base, ("a dog", "a cat"), (0,), cases, "gamma 0.0")
    with pytest.raises(DreamerError, match=r"That is 60 iterations; at most 50 are accepted here\."):  # a run for each prompt
        desk.lab.order_sweep(sweep, "me")
    with pytest.raises(DreamerError, match="That is 400 iterations"):
        desk.lab.order("6", FIRST, "me")
    assert desk.lab.jobs() == []
    desk.lab.close()
    manager.close()
    desk.close()


def test_a_replay_shows_what_there_is_and_trains_nothing(tmp_path: Path) -> None:
    manager = RunManager(tmp_path, fake_make_trainer())
    older, newest = finished(manager), finished(manager, prompt="a blue dog", seed=7)
    manager.close()

    def no_training(*_: object) -> None:
        raise AssertionError("a replay asked for a trainer")

    with opened(tmp_path, Limits(replay=True), no_training) as (site, client):
        visitor = Visitor(client, secrets.token_urlsafe(16))
        assert visitor.fire("arrive", "load")["Prompt"] == "a blue dog"  # it opens with the newest run
        look = visitor.look()
        assert "a blue dog" in look["status"] and "Done" in look["status"] and "<svg" in look["curves"]
        stage = site.viewer._stage
        assert stage is not None and len(stage.scenes) == 2 and stage.captions[0].endswith("Gaussians")

        for button in ("run", "again", "on"):
            assert "This page replays finished runs and trains none" in visitor.press(button)
        assert "replays finished runs" in str(visitor.post("lab-figures", data={"name": "make:6"}).json())
        assert len(site.manager.runs()) == 2 and site.manager.queue() == ()

        told = visitor.fire("runs", data={"name": f"open:{older.id}"})
        assert told["Prompt"] == "a red bagel" and "a red bagel" in visitor.look()["status"]
        visitor.fill(**{"Time": 3})
        assert "past/" in visitor.fire("moment", "input")["frame"]
        visitor.fire("runs", data={"name": f"compare:{older.id}"})
        table = visitor.fire("runs", data={"name": f"compare:{newest.id}"})["compared"]
        assert "a blue dog" in table and "a red bagel" in table
        assert client.get(f"runs/{older.id}/files/0-ism.ply").status_code == 200
        visitor.fire("files", data={"name": "0-ism.spz"})
        wait_until(lambda: client.get(f"runs/{older.id}/files/0-ism.spz").status_code == 200)
        assert visitor.fire("share-link")["link"].startswith("?")
