"""A real Ray cluster of this machine's, with processes that are killed; and the store that they leave everything in."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from browser import growing_trainer, serving
from test_sweep import TINY, plain
from visitor import Visitor, wait_until

pytest.importorskip("ray", reason="Ray has no wheel for this system or Python.")

from dreamerxl.__main__ import main
from dreamerxl.cluster.connect import ClusterError
from dreamerxl.cluster.mirror import Change, Mirror, apply
from dreamerxl.cluster.needs import EMBEDDED_GPU, cost, needs_of
from dreamerxl.cluster.remote import Lane
from dreamerxl.cluster.scratch import Scratch
from dreamerxl.cluster.store import Store, StoreError
from dreamerxl.cluster.sweep import RayExecutor
from dreamerxl.config import Settings, Variant, load_preset
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.lab.executor import LocalExecutor
from dreamerxl.lab.sweep import Task, read_sweep
from dreamerxl.runs.folder import scene_paths
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import read_run
from dreamerxl.runs.worker import MakeTrainer
from dreamerxl.training import checkpoint
from dreamerxl.web.offer import Offer
from dreamerxl.web.serve import make_site
from dreamerxl.web.viewer import stage_of

METRICS = ("pixel distance",)
EVERY = 2  # iterations between two checkpoints


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two processors and, so it is told, one card; each host is a process."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # hosts find what stands in this file
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def twelve(iterations: int = 2) -> list[Task]:
    """Twelve runs of one side each on the embedded model, the last of more iterations."""
    settings = TINY | {"device": "cpu", "iterations": iterations, "checkpoint_every": EVERY, "initialization.count": 30}
    grid = {"variants.method": ["sds", "csd"]}  # they ask the model least
    tasks = read_sweep(plain(settings=settings, sides_per_run=1, seeds=[0, 1, 2], grid=grid)).tasks()
    assert len(tasks) == 12
    return tasks


def scene_of(folder: Path, task: Task) -> dict[str, np.ndarray]:
    """The Gaussians that a task's last try left."""
    (path,) = max((folder / "runs" / task.id).glob("try-*")).glob("scenes/*.ply")
    return {field.name: getattr(read_ply(path), field.name) for field in dataclasses.fields(read_ply(path))}


def kill_one(scratch: Path, told: list[int]) -> None:
    """Kill the first host whose run is beyond its first checkpoint, in the middle of an interval; tells what it had done."""

    def far_enough() -> Path | None:
        for path in scratch.glob("*/runs/*/try-1/metrics.jsonl"):
            if path.read_bytes().count(b"\n") >= EVERY + 1:
                return path
        return None

    path = wait_until(far_enough, 120)
    os.kill(int(path.relative_to(scratch).parts[0].split("-")[1]), signal.SIGKILL)
    told.append(path.read_bytes().count(b"\n"))


@pytest.mark.usefixtures("ray")
def test_a_sweep_on_a_cluster_gives_the_same_bits_though_a_host_is_killed(tmp_path: Path) -> None:
    tasks, done = twelve(iterations=5), []
    local = dict(LocalExecutor(threads=1).run(tasks, tmp_path / "local", METRICS))
    hunter = threading.Thread(target=kill_one, args=(tmp_path / "scratch", done), daemon=True)
    hunter.start()
    found = dict(RayExecutor(scratch=tmp_path / "scratch").run(tasks, tmp_path / "cluster", METRICS))
    hunter.join(10)
    assert len(found) == 12 and all("error" not in outcome for outcome in found.values())
    for task in tasks:
        assert found[task]["sides"] == local[task]["sides"], "measures and thumbnails"
        ours, theirs = scene_of(tmp_path / "cluster", task), scene_of(tmp_path / "local", task)
        assert ours and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    (again,) = (tmp_path / "cluster" / "runs").glob("*/try-2")
    went_on = json.loads((again / "log.jsonl").read_text().splitlines()[0])
    assert "goes on from" in went_on["text"]
    first = min(int(path.stem) for path in (again.parent / "try-1" / "checkpoints").glob("*"))
    newest = max(int(path.stem) for path in (again.parent / "try-1" / "checkpoints").glob("*"))
    assert first == 0 and newest == EVERY and 0 < done[0] - newest <= EVERY, "one interval at most was lost"
    lines = [json.loads(line)["iteration"] for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 6)), "every iteration once"
    assert {task.id for task in tasks} == {path.stem for path in (tmp_path / "cluster" / "outcomes").iterdir()}


@dataclasses.dataclass
class Sleeper:
    """A body that takes a task's seed as its length and tells where and when it was at it. The first waits for others."""

    url: str
    hosts: int

    def outcome(self, task: Task) -> dict[str, Any]:
        begun = time.time()
        (Path(self.url) / f"{os.getpid()}").touch()
        wait_until(lambda: len(list(Path(self.url).iterdir())) >= self.hosts)
        time.sleep(task.seed / 1000)
        if task.prompt == "a red chair":
            raise ValueError("the sky fell")
        return {"id": task.id, "process": os.getpid(), "begun": begun, "ended": time.time()}

    def stop(self) -> None: ...
    def close(self) -> None: ...


def sleeper(url: str, metrics: Sequence[str], threads: int, scratch: Path | None) -> Sleeper:
    return Sleeper(url, 1)


def two_sleepers(url: str, metrics: Sequence[str], threads: int, scratch: Path | None) -> Sleeper:
    return Sleeper(url, 2)


def sleepers(seeds: list[int], prompts: Sequence[str] = ("a red duck",), **changes: Any) -> list[Task]:
    """Tasks that take as many milliseconds as iterations."""
    made = []
    for prompt in prompts:
        for seed in seeds:
            settings = Settings(prompt=prompt, model="embedded", seed=seed, iterations=seed, **changes)
            made.append(Task(f"{prompt}-{seed}", prompt, seed, ("one",), settings))
    return made


def test_the_longest_begin_first_on_hosts_that_stay(ray: Any, tmp_path: Path) -> None:
    tasks = sleepers([100, 400, 200, 300, 50], ("a red duck", "a red chair"))
    found = dict(RayExecutor(make_body=two_sleepers).run(tasks, tmp_path, METRICS))
    assert len(found) == 10
    failed = {task.prompt for task, outcome in found.items() if "error" in outcome}
    assert failed == {"a red chair"} and all("the sky fell" in found[task].get("error", "the sky fell") for task in tasks)
    done = [(task.seed, found[task]) for task in tasks if "error" not in found[task]]
    assert [seed for seed, _ in sorted(done, key=lambda entry: entry[1]["begun"])] == [400, 300, 200, 100, 50]
    assert len(list(tmp_path.iterdir())) == 2, "a process for each processor, which stays though its tasks fail"


def test_runs_that_need_the_whole_card_take_turns(ray: Any, tmp_path: Path) -> None:
    """Though there are two processors; the quarter of a card of the test above let two run at once."""
    found = list(RayExecutor(make_body=sleeper, gpus=1.0).run(sleepers([100, 101, 102]), tmp_path, METRICS))
    assert len({outcome["process"] for _, outcome in found}) == 1


def test_needs_follow_the_model_and_the_cluster() -> None:
    embedded, large = Settings(prompt="a", model="embedded"), Settings(prompt="a", model="me/a-model")
    assert needs_of(embedded, cards=True).gpus == EMBEDDED_GPU and needs_of(large, cards=True).gpus == 1
    assert needs_of(large.override({"cards": 2}), cards=True).gpus == 2
    assert needs_of(embedded, cards=False).gpus == needs_of(embedded.override({"device": "cpu"}), cards=True).gpus == 0
    assert needs_of(large, cards=True).memory > needs_of(embedded, cards=True).memory
    assert needs_of(large, cards=True, cpus=4, gpus=2).options() == {"num_cpus": 4, "num_gpus": 2, "memory": 10 * 2**30}


def test_the_estimate_of_a_run_grows_with_what_it_asks_of_the_model() -> None:
    def of(*methods: str, **changes: Any) -> float:
        variants = tuple(Variant(method=method) for method in methods)  # type: ignore[arg-type]
        return cost(dataclasses.replace(Settings(prompt="a"), variants=variants, **changes))

    assert of("sds") < of("ism") < of("ism", "tsm") and of("sds", iterations=10) < of("sds", iterations=11)


def test_what_no_machine_has_is_told_before_anything_starts(ray: Any, tmp_path: Path) -> None:
    for executor, error, said in (
        (RayExecutor(threads=3), ClusterError, "3 processors"),
        (RayExecutor(gpus=2), ClusterError, "2 cards"),
        (RayExecutor(store="nosuch://bucket"), StoreError, "nosuch"),
    ):
        with pytest.raises(error, match=said):
            list(executor.run(sleepers([1]), tmp_path, METRICS))


def test_a_sweep_that_is_interrupted_leaves_a_checkpoint_in_the_store(ray: Any, tmp_path: Path, capfd: Any) -> None:
    """From the command line: the interrupt reaches the run, which ends after an iteration; what waits is not begun."""
    settings = TINY | {"iterations": 10_000, "checkpoint_every": EVERY}
    source = plain(settings=settings, prompts=["a red duck"], grid={"variants.method": ["sds"]})
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")

    def interrupt() -> None:
        wait_until(lambda: list(tmp_path.glob("store/runs/*/try-1/checkpoints/0*[1-9].safetensors")), 60)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    store = (tmp_path / "store").as_uri()
    command = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--executor", "ray", "--jobs", "1"]
    assert main([*command, "--store", store]) == 130
    assert "goes on from here" in capfd.readouterr().err and (tmp_path / "out" / "report.html").exists()
    (folder,) = (tmp_path / "store" / "runs").iterdir()
    record = json.loads((folder / "try-1" / "run.json").read_text())
    assert record["status"] == "stopped" and "goes on from here" in record["reason"]
    assert checkpoint.latest(folder / "try-1" / "checkpoints").stem == f"{record['iteration']:07d}"


@pytest.mark.parametrize(
    "options", [["--store", "s3://b"], ["--address", "auto"], ["--gpus", "1"], ["--executor", "ray", "--gpus", "-1"]]
)
def test_options_that_do_not_fit_are_refused(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plain()), encoding="utf-8")
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), *options]) == 2
    assert options[-2] in capsys.readouterr().err


@pytest.mark.parametrize("place", ["memory://{}", "file://{}", "{}"])
def test_a_store_gives_back_what_was_put(place: str, tmp_path: Path) -> None:
    store = Store(place.format(tmp_path / "store"))
    assert store.get("a") is None and store.names("") == [] == store.names("runs")
    store.put("runs/x/a.bin", b"1")
    store.put("runs/x/a.bin", b"22")
    store.put("runs/x/deep/b.bin", b"")
    store.put("runs/xx/c.bin", b"3")
    assert store.names("runs/x") == ["runs/x/a.bin", "runs/x/deep/b.bin"]
    assert Store(place.format(tmp_path / "store")).get("runs/x/a.bin") == b"22"
    assert sorted(store.fetch("runs/x", tmp_path / "here")) == [tmp_path / "here" / "a.bin", tmp_path / "here" / "deep" / "b.bin"]
    assert (tmp_path / "here" / "a.bin").read_bytes() == b"22"
    store.remove("runs/x/a.bin")
    store.remove("runs/x/a.bin")
    assert store.names("runs/x") == ["runs/x/deep/b.bin"]


def test_an_address_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    """In a process of its own: one that has joined a cluster keeps it."""
    source = "from dreamerxl.cluster.connect import connect; connect('127.0.0.1:1')"
    said = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent.parent
    )
    assert "ClusterError: There is no Ray cluster at '127.0.0.1:1': " in said.stderr


def test_a_store_that_cannot_be_had_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in ("nosuch://bucket", "s3://bucket"):
        try:
            Store(url).put("a", b"1")
        except StoreError as error:
            assert url in str(error) and str(error).endswith(".")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(str(tmp_path / "file")).put("a/b", b"1")


def test_a_mirror_tells_what_changed_and_a_folder_follows_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "checkpoints").mkdir(parents=True)
    mirror = Mirror(here, without=("run.json",))

    def follow() -> list[tuple[str, int]]:
        changes = list(mirror.changes())
        apply(there, changes)
        return [(change.name, change.offset if change.data is not None else -1) for change in changes]

    def alike() -> bool:
        files = [path for path in here.rglob("*") if path.is_file() and path.name not in ("run.json", ".lock")]
        kept = {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
        return {path.relative_to(here) for path in files} == kept and all(
            path.read_bytes() == (there / path.relative_to(here)).read_bytes() for path in files
        )

    (here / "run.json").write_text("{}")
    (here / ".lock").write_text("")
    (here / "metrics.jsonl").write_text("1\n")
    (here / "checkpoints" / "0.safetensors").write_bytes(b"first")
    assert follow() == [("metrics.jsonl", 0), ("checkpoints/0.safetensors", 0)], "what a checkpoint needs goes first"
    assert alike() and follow() == []
    with open(here / "metrics.jsonl", "a") as file:
        file.write("2\n")
    (here / "checkpoints" / "0.safetensors").unlink()
    (here / "checkpoints" / "4.safetensors").write_bytes(b"second")
    assert follow() == [("metrics.jsonl", 2), ("checkpoints/4.safetensors", 0), ("checkpoints/0.safetensors", -1)] and alike()
    (here / "new").write_text("1\n")
    os.replace(here / "new", here / "metrics.jsonl")
    assert follow() == [("metrics.jsonl", 0)] and alike(), "a file that was rewritten travels whole"


def test_a_marked_mirror_tells_only_what_comes_after(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("1\n")
    mirror = Mirror(tmp_path)
    mirror.mark()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("2\n")
    assert list(mirror.changes()) == [Change("metrics.jsonl", b"2\n", 2)]
    (tmp_path / "run.json").unlink()
    assert list(mirror.changes()) == [Change("run.json", None)]


def test_the_folder_of_a_process_that_was_killed_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dreamerxl.cluster.scratch import Scratch; "
        "own = Scratch(Path(sys.argv[1])); (own.path / 'run').mkdir(); (own.path / 'run' / 'half').touch(); "
        "print(own.path, flush=True); time.sleep(600)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    ours = Scratch(tmp_path)
    assert (theirs / "run" / "half").exists() and ours.path != theirs, "a living process's folder stays"
    other.kill()
    other.wait()
    third = Scratch(tmp_path)
    assert not theirs.exists() and ours.path.is_dir() and third.path.is_dir()
    ours.close(), third.close()
    assert not list(tmp_path.iterdir())


def growing() -> MakeTrainer:
    """A stand-in for a station to train with: scenes that change, 50 iterations a second."""
    return growing_trainer(0.02)


@pytest.fixture(scope="module")
def lane(ray: Any) -> Iterator[Lane]:
    made = Lane(threads=1, make_trainer=growing)
    yield made
    made.close()


def pid_of(lane: Lane) -> int:
    return lane.ray.get(lane.station.__ray_call__.remote(lambda _: os.getpid()))


def test_a_remote_run_is_watched_changed_paused_and_stopped_from_the_page(lane: Lane, tmp_path: Path) -> None:
    site = make_site(RunManager(tmp_path, carry_out=lane), Offer(load_preset("mushroom")))
    with serving(site) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        visitor, stranger = Visitor(client, secrets.token_urlsafe(16)), Visitor(client, secrets.token_urlsafe(16))
        visitor.fill(Prompt="a red ball", Iterations=5000)
        assert visitor.press("run") == ""
        run = wait_until(site.manager.current)
        assert wait_until(lambda: "Waiting for a machine" in str(visitor.look()) or run.view.snapshot is not None, 60)
        wait_until(lambda: run.view.snapshot is not None and run.view.snapshot.iteration > 20, 60)
        assert pid_of(lane) != os.getpid()

        shown: list[Any] = []
        for _ in range(2):  # what the page and the view show is alive
            at = run.view.snapshot.iteration
            wait_until(lambda at=at: run.view.snapshot.iteration > at)
            stage = stage_of(site.desk.on_show())
            shown.append((str(visitor.look()), stage.scenes[0].rgbs.copy()))
        assert shown[0][0] != shown[1][0] and not np.array_equal(shown[0][1], shown[1][1])
        assert "a red ball" in shown[0][0] and len(run.view.history.iterations) > 10
        with pytest.raises(ValueError, match="read-only"):
            run.view.snapshot.sides[0].splats.means[0] = 0

        assert "another visitor" in stranger.press("pause")
        visitor.fill(Guidance=33)
        assert "33" in visitor.press("apply") or wait_until(lambda: run.view.settings.variants[0].guidance_scale == 33)
        assert visitor.press("pause") == ""
        wait_until(lambda: run.view.status == "paused")
        at = run.view.iteration
        assert "Paused" in str(visitor.look())
        time.sleep(0.5)
        assert run.view.iteration == at, "it waits there"
        assert checkpoint.latest(run.folder.checkpoints).stem == f"{at:07d}", "what a pause keeps is here"
        assert visitor.press("pause") == ""  # it is Resume now
        wait_until(lambda: run.view.iteration > at)
        assert visitor.press("stop") == "" and run.wait(20)
    kinds = [event.kind for event in run.view.events]
    assert kinds == ["queued", "loading", "started", "changed", "paused", "resumed", "stopped"]
    assert [event.iteration for event in run.view.events] == sorted(event.iteration for event in run.view.events)
    assert run.view.events[2].iteration == 0 and run.view.owner == visitor.token
    assert all(path.exists() for path in scene_paths(run.folder.path, run.view.settings.variants))
    lines = [line["iteration"] for line in run.folder.read_metrics()]
    assert lines == list(range(1, run.view.iteration + 1))
    assert read_run(run.folder.path).view.settings.variants[0].guidance_scale == 33


def test_a_run_whose_machine_dies_goes_on_on_another_from_its_last_checkpoint(lane: Lane, tmp_path: Path) -> None:
    settings = Settings(prompt="a ball", model="embedded", iterations=120, checkpoint_every=20)
    manager, here = RunManager(tmp_path / "there", carry_out=lane), RunManager(tmp_path / "here", growing_trainer(0))
    run = manager.submit(settings, owner="me")
    wait_until(lambda: run.view.iteration > 45, 60)
    before = pid_of(lane)
    os.kill(before, signal.SIGKILL)
    assert run.wait(90) and run.view.status == "done", run.view.reason
    assert pid_of(lane) != before
    (recovered,) = (event for event in run.view.events if event.kind == "recovered")
    newest = int(recovered.text.split("goes on from iteration ")[1].split()[0])
    assert newest % 20 == 0 and 0 <= recovered.iteration - newest <= 20 + 10, "an interval, and what came since the last news"
    assert [line["iteration"] for line in run.folder.read_metrics()] == list(range(1, 121))
    undisturbed = here.submit(settings)
    assert undisturbed.wait(60)
    for ours, theirs in zip(run.view.snapshot.sides, undisturbed.view.snapshot.sides, strict=True):
        assert np.array_equal(ours.splats.means, theirs.splats.means)
    assert run.view.history == undisturbed.view.history
    assert manager.close() and here.close()


def test_a_run_pauses_before_its_first_iteration_and_one_that_no_machine_has_room_for_says_so(lane: Lane, tmp_path: Path) -> None:
    manager = RunManager(tmp_path, carry_out=lane)
    run = manager.submit(Settings(prompt="a ball", model="embedded", iterations=100_000))
    manager.pause(run.id)
    wait_until(lambda: run.view.status == "paused", 60)
    assert run.view.iteration == 0
    manager.stop(run.id)
    assert run.wait(20) and run.view.status == "stopped"
    lane.threads = 64
    impossible = manager.submit(Settings(prompt="a ball", model="embedded", iterations=5))
    assert impossible.wait(20) and impossible.view.status == "failed"
    assert impossible.view.reason.startswith("No machine of the cluster has the 64 processors")
    assert manager.close()
