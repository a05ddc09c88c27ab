"""A real Ray cluster of this machine's, with processes that are killed; and the store that they leave everything in."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sweep import TINY, plain
from visitor import wait_until

pytest.importorskip("ray", reason="Ray has no wheel for this system or Python.")

from dreamerxl.cluster.connect import ClusterError
from dreamerxl.cluster.mirror import Mirror, apply
from dreamerxl.cluster.needs import EMBEDDED_GPU, cost, needs_of
from dreamerxl.cluster.store import Store, StoreError
from dreamerxl.cluster.sweep import RayExecutor
from dreamerxl.config import Settings, Variant
from dreamerxl.gaussians.ply import read_ply
from dreamerxl.lab.executor import LocalExecutor
from dreamerxl.lab.sweep import Task, read_sweep

METRICS = ("pixel distance",)
EVERY = 4  # iterations between two checkpoints


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
    grid = {"variants.method": ["sds", "ism"]}
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
    tasks, done = twelve(iterations=7), []
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
    assert lines == list(range(1, 8)), "every iteration once"
    assert {task.id for task in tasks} == {path.stem for path in (tmp_path / "cluster" / "outcomes").iterdir()}


@dataclasses.dataclass
class Sleeper:
    """A body that takes a task's seed as its length and tells where and when it was at it."""

    url: str

    def outcome(self, task: Task) -> dict[str, Any]:
        begun = time.time()
        time.sleep(task.seed / 1000)
        if task.prompt == "a red chair":
            raise ValueError("the sky fell")
        return {"id": task.id, "process": os.getpid(), "begun": begun, "ended": time.time()}

    def stop(self) -> None: ...
    def close(self) -> None: ...


def sleeper(url: str, metrics: Sequence[str], threads: int, scratch: Path | None) -> Sleeper:
    return Sleeper(url)


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
    found = dict(RayExecutor(make_body=sleeper).run(tasks, tmp_path, METRICS))
    assert len(found) == 10
    failed = {task.prompt for task, outcome in found.items() if "error" in outcome}
    assert failed == {"a red chair"} and all("the sky fell" in found[task].get("error", "the sky fell") for task in tasks)
    done = [(task.seed, found[task]) for task in tasks if "error" not in found[task]]
    assert [seed for seed, _ in sorted(done, key=lambda entry: entry[1]["begun"])] == [400, 300, 200, 100, 50]
    assert len({outcome["process"] for _, outcome in done}) == 2, "a process for each processor, which stays"


def test_runs_that_need_the_whole_card_take_turns(ray: Any, tmp_path: Path) -> None:
    """Though there are two processors; the quarter of a card of the test above let two run at once."""
    found = list(RayExecutor(make_body=sleeper, gpus=1.0).run(sleepers([100, 101, 102]), tmp_path, METRICS))
    assert len({outcome["process"] for _, outcome in found}) == 1


def test_needs_follow_the_model_and_the_cluster() -> None:
    embedded, large = Settings(prompt="a", model="embedded"), Settings(prompt="a", model="me/a-model")
    assert needs_of(embedded, cards=True).gpus == EMBEDDED_GPU and needs_of(large, cards=True).gpus == 1
    assert needs_of(embedded, cards=False).gpus == needs_of(embedded.override({"device": "cpu"}), cards=True).gpus == 0
    assert needs_of(large, cards=True).memory > needs_of(embedded, cards=True).memory
    assert needs_of(large, cards=True, cpus=4, gpus=2).options() == {"num_cpus": 4, "num_gpus": 2, "memory": 16 * 2**30}


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


def test_a_sweep_that_is_stopped_leaves_a_checkpoint_in_the_store(ray: Any, tmp_path: Path) -> None:
    long = twelve(iterations=10_000)[0]
    short = twelve()[1]
    running = RayExecutor(hosts=1, store=(tmp_path / "store").as_uri()).run([long, short], tmp_path / "out", METRICS)
    ending = threading.Timer(0, lambda: None)

    def interrupt() -> None:
        wait_until(lambda: list(tmp_path.glob(f"store/runs/{long.id}/try-1/checkpoints/*")), 60)
        signal.raise_signal(signal.SIGINT)

    ending = threading.Thread(target=interrupt, daemon=True)
    ending.start()
    with pytest.raises(KeyboardInterrupt):
        next(running)
    folder = tmp_path / "store" / "runs" / long.id / "try-1"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "stopped" and "goes on from here" in record["reason"]
    assert [int(path.stem) for path in (folder / "checkpoints").iterdir()][-1] > 0
    assert not (tmp_path / "store" / "runs" / short.id).exists()


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
