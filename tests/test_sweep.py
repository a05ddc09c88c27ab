"""Sweeps: what is planned, carried out once, taken up again and reported; and the statistics of pairs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from fake_training import fake_make_trainer
from gaussian_data import drive
from tiny_models import make_stable_diffusion, settings

from dreamerxl.__main__ import main
from dreamerxl.config import PRESETS, Timesteps, Variant, Weights
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.errors import SettingsError
from dreamerxl.guidance.models import load_guidance
from dreamerxl.lab.executor import LocalExecutor
from dreamerxl.lab.probe import probe, probe_cameras
from dreamerxl.lab.report import collect, is_constant, uncertain
from dreamerxl.lab.statistics import Estimate, estimate, paired, units
from dreamerxl.lab.sweep import load_sweep, outcome_path, piece_of, read_sweep
from dreamerxl.training.trainer import Trainer

SMALL: dict[str, Any] = {"iterations": 4, "checkpoint_every": 2, "views.resolution": 64, "initialization.count": 50}
TINY: dict[str, Any] = {**SMALL, "iterations": 2, "views.batch": 1, "views.resolution": 32, "weights.precision": "float32"}
PROMPTS = ["a red duck", "a blue house"]


def plain(**changes: Any) -> dict[str, Any]:
    return {"settings": SMALL, "prompts": PROMPTS, "seeds": [0, 1], "grid": {"variants.gamma": [0, 0.3, 1.0]}, **changes}


def test_cases_are_a_grid_crossed_with_a_list_and_share_runs_where_they_can() -> None:
    cases = [{"name": "soft", "variants.clip_color": None}, {"name": "hard", "variants.clip_color": 0.01}]
    sweep = read_sweep(plain(cases=cases, baseline="hard, gamma 0"))
    names = [case.name for case in sweep.cases]
    assert names[:3] == ["soft, gamma 0", "soft, gamma 0.3", "soft, gamma 1"] and len(names) == 6
    tasks = sweep.tasks()
    assert [len(task.cases) for task in tasks] == [4, 2] * 4, "six cases in runs of at most four sides, 2 prompts, 2 seeds"
    assert len({task.id for task in tasks}) == 8
    first = tasks[0]
    assert (first.prompt, first.seed, first.settings.prompt, first.settings.seed) == ("a red duck", 0, "a red duck", 0)
    assert [(v.gamma, v.clip_color, v.method) for v in first.settings.variants] == [
        (0, None, "tsm"), (0.3, None, "tsm"), (1, None, "tsm"), (0, 0.01, "tsm"),
    ]  # fmt: skip


def test_cases_of_different_runs_and_particles_do_not_share_one() -> None:
    grid = {"views.batch": [1, 2], "variants.gamma": [0, 1]}
    tasks = read_sweep(plain(prompts=["a cat"], seeds=[0], grid=grid)).tasks()
    assert [(task.settings.views.batch, len(task.cases)) for task in tasks] == [(1, 2), (2, 2)]
    cases = [{"name": str(k), "variants.method": "vsd", "variants.guidance_scale": k} for k in (1, 2)]
    cases.append({"name": "ism", "variants.method": "ism"})
    tasks = read_sweep(plain(prompts=["a cat"], seeds=[0], grid={}, cases=cases)).tasks()
    assert [task.cases for task in tasks] == [("1", "ism"), ("2",)], "sides by VSD would be each other's particles"


def test_an_id_tells_settings_apart() -> None:
    before = {task.id for task in read_sweep(plain()).tasks()}
    assert before == {task.id for task in read_sweep(plain(name="another name")).tasks()}
    assert not before & {task.id for task in read_sweep(plain(settings={**SMALL, "iterations": 5})).tasks()}


def test_pieces_are_all_of_it_and_each_once() -> None:
    tasks = read_sweep(plain(sides_per_run=1)).tasks()
    pieces = [piece_of(tasks, f"{k}/5") for k in range(1, 6)]
    assert sorted(task.id for piece in pieces for task in piece) == sorted(task.id for task in tasks)
    for wrong in ("0/2", "3/2", "half", "1/0", "1"):
        with pytest.raises(SettingsError, match="K/N"):
            piece_of(tasks, wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"promts": ["a cat"]}, "'promts' is no entry"),
        ({"extends": "embeded"}, "no preset"),
        ({"settings": {"views.batsh": 2}}, "not a setting"),
        ({"grid": {"variants.gamma": [0, 2]}}, "The case 'gamma 2'.*0 to 1"),
        ({"grid": {"variants.gamma": 0.3}}, "a list of values"),
        ({"grid": {"seed": [1, 2]}}, "A case changes seed"),
        ({"prompts": ["a cat", "a cat"]}, "twice"),
        ({"prompts": "a cat"}, "a list of texts"),
        ({"prompts": [" "]}, "empty prompt"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"seeds": list(range(60_000))}, "sides; at most"),
        ({"baseline": "gamma 0.2"}, "is no case"),
        ({"cases": [{"variants.delta_t": 10}, {"variants.delta_t": 20}]}, "same name"),
        ({"sides_per_run": 5}, "1 to 4"),
        ({"metrics": ["beauty"]}, "'beauty'"),
    ],
)
def test_what_is_no_sweep_is_told_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_sweep(plain(**changes))


def test_files_that_are_no_sweep_are_refused(tmp_path: Path) -> None:
    for text, said in (
        ("- a", "group of entries"),
        ("a: [", "not plain YAML"),
        ("!!python/object:os.system {}", "not plain YAML"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(SettingsError, match=said):
            load_sweep(tmp_path / "bad.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_sweep(tmp_path / "none.yaml")


def test_intervals_are_those_of_a_paired_t_test() -> None:
    draws = np.random.default_rng(0).normal(size=(2, 12))
    a, b = ({(f"prompt {k}", 0): float(value) for k, value in enumerate(row)} for row in draws)
    found, theirs = paired(a, b), scipy.stats.ttest_rel(draws[0], draws[1])
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.differs == (theirs.pvalue < 0.05) and found.n == 12
    shifted = paired({key: value + 5 for key, value in a.items()}, a)
    assert shifted.mean == pytest.approx(5) and shifted.differs


def test_seeds_of_a_prompt_are_one_unit_unless_there_is_one_prompt() -> None:
    values = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 10.0}
    assert units(values) == [2.0, 10.0] and units({("a", 0): 1.0, ("a", 1): 3.0}) == [1.0, 3.0]
    assert paired(values, {("a", 0): 0.0, ("c", 0): 1.0}).n == 1, "only what both have"
    assert estimate([]).n == 0 and not estimate([4.0]).differs and np.isnan(estimate([4.0]).half_width)


@pytest.fixture
def small_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured of stand-in scenes need not be measured finely."""
    monkeypatch.setattr("dreamerxl.lab.executor.VIEWS", 4)
    monkeypatch.setattr("dreamerxl.lab.executor.SIZE", 64)


def write(tmp_path: Path, **changes: Any) -> list[str]:
    """A sweep file and the command line that runs it."""
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plain(**changes)), encoding="utf-8")
    return ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]


@pytest.mark.usefixtures("small_renders")
def test_a_sweep_runs_once_and_does_the_rest_when_it_is_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, make = write(tmp_path), fake_make_trainer()
    assert main([*command, "--piece", "1/2"], make) == 0 and len(make.made) == 2
    said = capsys.readouterr()
    assert "2 runs, 2 to do" in said.err and said.out.strip() == str(tmp_path / "out" / "report.html")
    assert "2 not yet run" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert main(command, make) == 0 and len(make.made) == 4
    assert main(command, make) == 0 and len(make.made) == 4, "nothing is left to do"
    task = load_sweep(tmp_path / "sweep.yaml").tasks()[2]
    outcome_path(tmp_path / "out", task).write_text('{"torn')
    assert main(command, make) == 0 and len(make.made) == 5 and make.made[-1].settings == task.settings


@pytest.mark.usefixtures("small_renders")
def test_what_failed_is_told_and_goes_on_from_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = write(tmp_path, prompts=["a red duck"], seeds=[0])
    assert main(command, fake_make_trainer(fail_at=3)) == 1
    assert "the sky fell" in capsys.readouterr().err
    assert "<h2>Failed</h2>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert main(command, fake_make_trainer()) == 0
    (task,) = load_sweep(tmp_path / "sweep.yaml").tasks()
    record = json.loads((tmp_path / "out" / "runs" / task.id / "try-2" / "run.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "out" / "runs" / task.id / "try-2" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert "goes on from" in record["events"][0]["text"]
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4], "the first two are the first try's"
    assert "<h2>Failed</h2>" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small_renders")
def test_the_report_holds_everything_and_its_numbers_are_right(tmp_path: Path) -> None:
    assert main(write(tmp_path, description="<b>why</b>"), fake_make_trainer()) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is fetched from elsewhere"
    assert "&lt;b&gt;why&lt;/b&gt;" in page and page.count("data:image/jpeg;base64,") == 2 * 3
    data = json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))
    assert data["runs"] == {"done": 4, "failed": 0, "missing": 0} and data["baseline"] == "gamma 0"
    same = [name for name, rows in data["measures"].items() if all(row["mean"] == rows[0]["mean"] for row in rows)]
    picture = ElementTree.parse(tmp_path / "out" / "differences.svg").getroot()
    titles = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "title"]
    assert 0 < len(same) < len(data["measures"]), "what is the same everywhere is told and not drawn"
    assert page.count(" in every case.") == len(same) and page.count("<svg") == len(titles) == len(data["measures"]) - len(same)
    assert titles == [name for name in data["measures"] if name not in same]
    values = collect(data["outcomes"])["pixel distance"]
    differences = [
        np.mean([values["gamma 1"][prompt, seed] - values["gamma 0"][prompt, seed] for seed in (0, 1)]) for prompt in PROMPTS
    ]
    (row,) = (row for row in data["measures"]["pixel distance"] if row["case"] == "gamma 1")
    assert row["difference"]["n"] == 2 and row["difference"]["mean"] == pytest.approx(np.mean(differences))


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.71596, 0.00650, "0.7160 ± 0.0065"),
        (-0.00019, 0.000242, "-0.00019 ± 0.00024"),
        (3486.7, 67.8, "3487 ± 68"),
        (34860.7, 1230.0, "34900 ± 1200"),
        (0.3, 0.0, "0.3"),
        (0.25, math.nan, "0.25"),
        (math.nan, math.nan, "–"),
        (1.23e-9, 4.5e-10, "1.23e-09 ± 4.5e-10"),
    ],
)
def test_means_are_told_as_far_as_they_are_known(mean: float, half: float, text: str) -> None:
    assert uncertain(Estimate(mean, half, 5)) == text


def test_a_number_that_is_the_same_everywhere_is_told_and_not_drawn() -> None:
    many, one = Estimate(3.0, 0.0, 5), Estimate(3.0, math.nan, 1)
    assert all(is_constant([{"mean": found}, {"mean": found}]) for found in (many, one))
    for other in (Estimate(3.0, 0.2, 5), Estimate(3.1, math.nan, 1)):
        assert not is_constant([{"mean": one}, {"mean": other}])


@pytest.mark.usefixtures("small_renders")
def test_metrics_without_weights_are_left_out_and_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    command = write(tmp_path, prompts=["a red duck"], seeds=[0], metrics=["CLIP-L/14", "pixel distance"])
    assert main(command, fake_make_trainer()) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "CLIP-L/14 is left out." in page and "<h2>pixel distance</h2>" in page and "<h2>judge</h2>" not in page


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The real trainer, on the embedded model, in this process and in two others."""
    grid = {"variants.method": ["sds", "csd"]}  # they ask the model least
    tasks = read_sweep(plain(settings=TINY, prompts=["a red duck"], grid=grid)).tasks()
    found = []
    for jobs in (1, 2):
        outcomes = dict(LocalExecutor(jobs, threads=1).run(tasks, tmp_path / str(jobs), ("pixel distance",)))
        found.append([[side["measures"] for side in outcomes[task]["sides"]] for task in tasks])
    assert found[0][0][0].keys() == {"pixel distance", "gradient norm", "clipped share", "Gaussians"}
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = make_stable_diffusion(tmp_path_factory.mktemp("model"))
    sides = (
        Variant(method="sds"),
        Variant(method="ism", inversion_start="noised"),
        Variant(method="tsm", inversion_start="noised"),
        Variant(method="tsm"),
    )
    made = Trainer(settings(sides), load_guidance(str(folder), "cpu", Weights(precision="float32")))
    made.step()
    return made


def test_a_probe_asks_the_methods_themselves(trainer: Trainer) -> None:
    cameras = probe_cameras(40, 30.0)
    answers = probe(trainer, cameras, 500, count=3)
    guidance, prompts = trainer.guidance, trainer.embeddings
    noises = torch.randn(3, *answers[0].x_0.shape, generator=torch.Generator().manual_seed(0))
    views = prompts.conditioning(cameras.azimuth_deg, cameras.elevation_deg)

    def network(query: Any) -> torch.Tensor:
        times = torch.full((2,), query.t)
        uncond = guidance.predict(query.x, times, prompts.negative.repeated(2))
        return uncond + 7.5 * (guidance.predict(query.x, times, views) - uncond) if query.guided else uncond

    with torch.no_grad():
        for side, found in zip(trainer.sides, answers, strict=True):
            plan = plan_steps(500, side.variant, Timesteps(), 0)
            for k in range(3):
                score = drive(METHODS[side.variant.method](found.x_0, plan, noises[k], guidance.schedule, side.variant), network)
                scale = score.gradient.abs().max()
                assert (found.gradients[k] - score.gradient).abs().max() < 1e-4 * scale


def test_what_spreads_comes_from_the_noise(trainer: Trainer) -> None:
    sds, ism, tsm, clean = probe(trainer, probe_cameras(40, 30.0), 500)
    assert clean.spread == clean.target_spread == clean.gradient_spread == 0
    assert 0 < ism.spread < sds.spread
    assert torch.allclose(sds.targets, sds.x0_hats, atol=1e-3), "the target of SDS is its pseudo ground truth"
    assert not torch.allclose(ism.targets, ism.x0_hats, atol=1e-1)
    assert tsm.gradient_spread != ism.gradient_spread


@pytest.mark.parametrize("path", sorted((PRESETS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_ship_can_be_run(path: Path) -> None:
    sweep = load_sweep(path)
    assert len(sweep.prompts) >= 32 and len(sweep.seeds) >= 3 and sweep.description
