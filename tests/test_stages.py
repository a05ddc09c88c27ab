"""Geometry first, appearance after: what each stage guides, moves and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_stable_diffusion, settings, values
from torch import Tensor

from dreamerxl.config import Losses, Settings
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import load_guidance
from dreamerxl.training.draw import draw
from dreamerxl.training.stages import APPEARANCE, GEOMETRY, Stage, stage_of
from dreamerxl.training.trainer import Trainer

QUIET = {"losses__tv_color": 0, "losses__tv_depth": 0, "losses__scale": 0}
TWO = {"losses__geometry_iterations": 2, "iterations": 4, **QUIET}


@pytest.fixture(scope="module")
def guidance(tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    return load_guidance(str(make_stable_diffusion(tmp_path_factory.mktemp("model"))), "cpu")


def moved(before: list[dict[str, Tensor]], after: list[dict[str, Tensor]]) -> list[set[str]]:
    """The parameters of each side that are not the same to the bit."""
    return [{name for name in a if not torch.equal(a[name], b[name])} for a, b in zip(before, after, strict=True)]


def drawn(wanted: Settings, iteration: int):
    return draw(wanted, iteration, 1000, (4, 16, 16), torch.device("cpu"))


def test_the_parameters_of_a_scene_are_those_of_the_stages(guidance: Guidance):
    assert set(Trainer(settings(), guidance).sides[0].params) == GEOMETRY | APPEARANCE


@pytest.mark.parametrize("hold", [False, True])
def test_the_first_stage_moves_the_geometry_and_the_second_the_rest(guidance: Guidance, hold: bool):
    trainer = Trainer(settings(**TWO, losses__hold_geometry=hold), guidance)
    start = values(trainer)
    reports = [trainer.step() for _ in range(2)]
    middle = values(trainer)
    reports += [trainer.step() for _ in range(2)]
    assert [report.draw.depth for report in reports] == [True, True, False, False]
    assert all(names and names <= GEOMETRY for names in moved(start, middle))
    assert all(names == APPEARANCE if hold else names > APPEARANCE for names in moved(middle, values(trainer)))


def test_stages_change_nothing_else_of_what_is_drawn():
    plain, staged = settings(losses__depth_ratio=0.5), settings(losses__depth_ratio=0.5, losses__geometry_iterations=3)
    for iteration in range(12):
        one, two = drawn(plain, iteration), drawn(staged, iteration)
        assert torch.equal(one.noise, two.noise) and one.t == two.t and torch.equal(one.background, two.background)
        assert two.depth == (True if iteration < 3 else one.depth)
    assert 0 < sum(drawn(plain, iteration).depth for iteration in range(12)) < 12


def test_a_run_taken_up_between_the_stages_goes_on_alike(guidance: Guidance, tmp_path: Path):
    wanted = settings(**TWO, losses__hold_geometry=True)
    whole, first, second = (Trainer(wanted, guidance) for _ in range(3))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step()
    assert moved(values(whole), values(second)) == [set(), set()]


def test_without_stages_there_are_none():
    assert (
        stage_of(Losses(), 0) == stage_of(Losses(hold_geometry=True), 5) == stage_of(Losses(geometry_iterations=3), 3) == Stage()
    )
