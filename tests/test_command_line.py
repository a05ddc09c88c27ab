"""The command line: what it makes, what it says, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_training import fake_make_trainer

import dreamerxl
from dreamerxl import config
from dreamerxl.__main__ import main
from dreamerxl.config import Settings
from dreamerxl.runs import capture

HERE = Path(__file__).parent
PRESET = """
description: A bun.
prompt: a bagel
iterations: 5
variants:
  - {method: ism, delta_t: 33}
  - {method: tsm, gamma: 0.2}
"""


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "bagel.yaml").write_text(PRESET)
    monkeypatch.setattr(config, "PRESETS", folder)
    for function in (capture.turntable, capture.contact_sheet):
        shrunk = {"frames": 4, "tile": 48} if "frames" in function.__kwdefaults__ else {"views": 4, "tile": 48}
        monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | shrunk)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(*arguments, **fake) -> int:
    return main(["run", *map(str, arguments)], make_trainer=fake_make_trainer(**fake))


def settings_of(folder: Path) -> Settings:
    return Settings.from_dict(json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"])


def test_a_run_leaves_scenes_turntable_and_contact_sheet_and_prints_them(tmp_path, capsys):
    assert run("--preset", "bagel", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    names = ["scenes/0-ism.ply", "scenes/1-tsm.ply", "captures/contact-sheet.png", "captures/turntable.mp4"]
    assert printed.out.splitlines() == [str(tmp_path / "out" / name) for name in names]
    assert all((tmp_path / "out" / name).stat().st_size > 0 for name in names)
    assert "5/5" in printed.err
    assert "A notice." in printed.err
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 5


def test_options_reach_the_settings(tmp_path):
    options = ["--prompt", "123", "--seed", "9", "--iterations", "2", "--gamma", "0.7", "--delta-t", "44", "--clip-color", "off"]
    options += ["--clip-depth", "2e-2", "--guidance-scale", "3", "--model", "embedded"]
    options += ["--set", "views.batch=3", "--set", "variants.0.delta_s=100", "--set", "prompting.front=from = here"]
    assert run("--preset", "bagel", *options, "--no-video", "--out", tmp_path / "out") == 0
    settings = settings_of(tmp_path / "out")
    assert (settings.prompt, settings.seed, settings.iterations, settings.model) == ("123", 9, 2, "embedded")
    assert [(v.method, v.gamma, v.delta_t, v.delta_s, v.guidance_scale) for v in settings.variants] == [
        ("ism", 0.7, 44, 100, 3.0),
        ("tsm", 0.7, 44, 200, 3.0),
    ]
    assert [(v.clip_color, v.clip_depth) for v in settings.variants] == [(None, 0.02)] * 2
    assert (settings.views.batch, settings.prompting.front) == (3, "from = here")
    assert not (tmp_path / "out" / "captures" / "turntable.mp4").exists()


def test_methods_take_the_presets_sides_where_it_has_them(tmp_path):
    assert run("--preset", "bagel", "--methods", "tsm", "sds", "ism", "--no-video", "--out", tmp_path / "out") == 0
    sides = settings_of(tmp_path / "out").variants
    assert [(side.method, side.gamma, side.delta_t) for side in sides] == [("tsm", 0.2, 80), ("sds", 0.2, 80), ("ism", 0.3, 33)]
    assert sorted(path.name for path in (tmp_path / "out" / "scenes").iterdir()) == ["0-tsm.ply", "1-sds.ply", "2-ism.ply"]


def test_rules_come_between_the_preset_and_what_is_typed(tmp_path):
    options = ("--rules", "released", "--set", "variants.mu_rule=paper", "--no-video", "--out", tmp_path / "out")
    assert run("--preset", "bagel", *options) == 0
    settings = settings_of(tmp_path / "out")
    assert {side.depth_clip_rule for side in settings.variants} == {"released"} and settings.timesteps.rule == "released"
    assert {side.mu_rule for side in settings.variants} == {"paper"} and settings.losses.depth_ratio == 0.2
    assert [side.delta_t for side in settings.variants] == [33, 80]


def test_a_preset_may_be_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: bagel\niterations: 1\n")
    assert run("--preset", tmp_path / "mine.yaml", "--no-video", "--out", tmp_path / "out") == 0
    assert settings_of(tmp_path / "out").iterations == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--preset", "bagle"], "There is no preset 'bagle' (did you mean bagel?); presets: bagel."),
        (["--preset", "missing.yaml"], "The settings file missing.yaml cannot be read"),
        (["--gamma", "1.5"], "variants.0.gamma is 1.5; 0 to 1 is accepted."),
        (["--gamma", "-1"], "variants.0.gamma is -1; 0 to 1 is accepted."),
        (["--gamma", "nan"], "variants.0.gamma is nan, which is not a number; 0 to 1 is accepted."),
        (["--gamma", ""], "variants.0.gamma is ''; a number is accepted."),
        (["--seed", "abc"], "seed is 'abc'; a whole number is accepted."),
        (["--delta-t", "0"], "variants.0.delta_t is 0; 1 to 999 timesteps is accepted."),
        (["--clip-color", "0"], "variants.0.clip_color is 0;"),
        (["--methods", "tsn"], "variants.0.method is 'tsn'; accepted: sds, csd, ism, tsm, vsd."),
        (["--methods", "tsm", "tsm", "tsm", "tsm", "tsm"], "variants has 5 entries; 1 to 4 are accepted."),
        (["--prompt", " "], "prompt is empty"),
        (["--set", "batch=2"], "batch is not a setting (did you mean views.batch?)."),
        (["--set", "views.batch"], "--set was given 'views.batch'; NAME=VALUE is accepted"),
        (["--set", "=3"], "--set was given '=3'; NAME=VALUE is accepted"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(tmp_path, capsys, options, sentence):
    assert run("--preset", "bagel", *options, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(sentence)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run("--preset", "bagel", "--out", tmp_path / "out") == 2
    assert re.fullmatch(
        r"The folder .*out is not empty; name one that does not exist yet, or empty it\.\n", capsys.readouterr().err
    )
    assert os.listdir(tmp_path / "out") == ["mine.txt"]


def test_a_run_that_fails_exits_with_1_and_its_reason(tmp_path, capsys):
    assert run("--preset", "bagel", "--out", tmp_path / "out", fail_at=3) == 1
    printed = capsys.readouterr()
    assert "failed: An unexpected ValueError ended the run: the sky fell." in printed.err
    assert "Traceback" not in printed.err
    assert printed.out.splitlines() == [str(tmp_path / "out" / "scenes" / name) for name in ("0-ism.ply", "1-tsm.ply")]


@pytest.mark.parametrize("arguments", [[], ["rum"], ["run"], ["run", "--out"], ["run", "--iteratons", "3", "--out", "x"]])
def test_a_command_line_that_cannot_be_read_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_version_presets_and_settings(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dreamerxl {dreamerxl.__version__}\n"
    assert main(["presets"]) == 0
    assert capsys.readouterr().out == "bagel  A bun.\n"
    assert main(["settings"]) == 0
    assert "variants.gamma = 0.3, 0 to 1\n" in capsys.readouterr().out


INTERRUPTED = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from fake_training import fake_make_trainer
from dreamerxl.__main__ import main
options = ["run", "--prompt", "a ball", "--iterations", "100000", "--out", {out!r}]
sys.exit(main(options, make_trainer=fake_make_trainer(0.005)))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly_and_keeps_the_scenes(tmp_path, kind):
    out = tmp_path / "out"
    script = INTERRUPTED.format(root=str(HERE.parent), here=str(HERE), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(kind)
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert "stopped: Stopped from the keyboard." in complaints
    assert [Path(line).name for line in printed.splitlines()] == ["0-ism.ply", "1-tsm.ply"]
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("stopped", "Stopped from the keyboard.")


def test_files_are_made_of_a_run_without_a_browser(tmp_path, capsys):
    assert run("--preset", "bagel", "--no-video", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    assert main(["take", str(tmp_path / "out"), "0-ism.spz", "sides.splat.zip", "growth.viser"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        str(tmp_path / "out" / name) for name in ("exports/0-ism.spz", "exports/sides.splat.zip", "captures/growth.viser")
    ]
    assert all(Path(name).stat().st_size > 0 for name in printed)
    for arguments, words in ((["growth.avi"], "nothing that is made"), (["9-ism.spz"], "no side 9-ism")):
        assert main(["take", str(tmp_path / "out"), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["take", str(tmp_path / "nothing"), "growth.mp4"]) == 2
    assert "no readable run.json" in capsys.readouterr().err
