"""The documents: their examples run, the list of settings is that of the code, and every link leads somewhere."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from gaussian_data import drive, stable_diffusion_alphas

import app
from dreamerxl import __main__, reference
from dreamerxl.config import Timesteps, Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.lab.sweep import load_sweep

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "THIRD_PARTY.md"))]


def test_the_examples_of_the_api_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 5
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/api.md", "exec"), names)
    assert names["view"].status == "done" and (tmp_path / "snowman.spz").stat().st_size > 1000  # type: ignore[attr-defined]


def test_the_method_that_contributors_are_shown_is_what_it_says() -> None:
    """The prompt's part of the prediction at the noise of the iteration: CSD, which is here already."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    shown: dict[str, Any] = {}
    exec(compile(textwrap.dedent(example[1]), "CONTRIBUTING.md", "exec"), shown)
    x_0, noise = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).unbind()
    schedule, variant = Schedule(stable_diffusion_alphas().float()), Variant(method="csd")
    arguments = x_0, plan_steps(400, variant, Timesteps(), 0), noise, schedule, variant

    def predict(query: Any) -> torch.Tensor:
        return torch.sin(query.x + query.t) * (3 if query.guided else 1)

    mine, csd = (drive(method(*arguments), predict) for method in (shown["mine"], METHODS["csd"]))
    assert torch.equal(mine.gradient, csd.gradient) and mine.gradient.abs().sum() > 0


def test_the_list_of_settings_is_that_of_the_code() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == reference.page(), (
        "python -m dreamerxl.reference > docs/settings.md"
    )


def test_every_setting_that_a_document_names_is_one() -> None:
    names = {name for name, _ in reference.leaf_fields()}
    groups = {name.split(".")[0] for name in names if "." in name}
    said = re.compile(rf"`((?:{'|'.join(groups)})\.[a-z0-9_]+)`")
    for page in PAGES:
        for name in said.findall(page.read_text(encoding="utf-8")):
            assert name in names, f"{page.name}: {name}"


def test_the_command_lines_that_are_shown_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in __main__.COMMANDS.items():
        monkeypatch.setitem(__main__.COMMANDS, name, dataclasses.replace(command, execute=lambda options, make_trainer: 0))
    done = []
    for page in PAGES:
        for program, options in re.findall(r"python (-m dreamerxl|app\.py) ([^\n`#]+)", page.read_text(encoding="utf-8")):
            parse = app.parser().parse_args if program == "app.py" else __main__.main
            done.append(parse(shlex.split(options)))  # leaves, which fails, where something is not known
    assert len(done) > 30


@pytest.mark.parametrize(
    ("name", "heading"), [("offset-rate", "### TSM against ISM, over the offset rate\n"), ("clipping", "### Gradient clipping\n")]
)
def test_the_tables_of_the_studies_are_those_of_their_runs(name: str, heading: str) -> None:
    """Every cell from the numbers of the single runs, which are those that the sweep asks for."""
    sweep = load_sweep(ROOT / "presets" / "sweeps" / f"{name}.yaml")
    outcomes = json.loads((DOCS / "lab" / f"{name}.json").read_text(encoding="utf-8"))["outcomes"]
    values = {
        (side["case"], outcome["prompt"], outcome["seed"]): side["measures"] for outcome in outcomes for side in outcome["sides"]
    }
    names = [case.name for case in sweep.cases]
    assert values.keys() == set(itertools.product(names, sweep.prompts, sweep.seeds))

    def by_prompt(case: str, measure: str) -> np.ndarray:
        return np.array([np.mean([values[case, prompt, seed][measure] for seed in sweep.seeds]) for prompt in sweep.prompts])

    section = (DOCS / "lab.md").read_text(encoding="utf-8").split(heading)[1]
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"(?m)^\|.*\|$", section)]
    measures, shown = rows[0], rows[2 : 2 + len(names)]
    assert [row[0] for row in shown] == names and len(measures) == 5
    for case, *cells in shown:
        for measure, cell in zip(measures, cells, strict=True):
            told = by_prompt(case, measure) - (0 if case == sweep.baseline else by_prompt(sweep.baseline, measure))
            interval = scipy.stats.ttest_1samp(told, 0).confidence_interval(0.95)
            mean, half = (float(text) for text in cell.strip("*").replace("−", "-").split(" ± "))
            digit = 10.0 ** (math.floor(math.log10(half)) - 1)  # the second one of the half width
            assert abs(mean - told.mean()) <= 0.51 * digit and abs(half - (interval.high - interval.low) / 2) <= 0.51 * digit
            assert cell.startswith("**") == (case != sweep.baseline and interval.low * interval.high > 0), (case, measure)


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    """Of each message in the table, the words between what varies stand in a text of the program."""
    sources = [ROOT / "app.py", *(ROOT / "dreamerxl").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    joined = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"\*([^*|]+)\*", "".join(re.findall(r"^\| (\*.*?) \|", page, re.MULTILINE)))
    pieces = [piece.strip(" .") for message in messages for piece in message.split("...")]
    assert len(messages) > 10 and [piece for piece in pieces if piece not in joined] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert "Trajectory" in (tmp_path / "index.html").read_text(encoding="utf-8")
