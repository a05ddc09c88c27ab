"""t, s, mu and the inversion's grid: both rules, annealing, and the draw's range and evenness."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamerxl.config import Timesteps, Variant
from dreamerxl.distillation.timesteps import anneal, draw_t, plan_steps

RELEASED = Timesteps(rule="released", anneal_iterations=750)


@given(
    t=st.integers(1, 999),
    gamma=st.floats(0, 1),
    delta_t=st.integers(1, 999),
    delta_s=st.integers(1, 999),
    limit=st.none() | st.integers(1, 50),
    rule=st.sampled_from(["paper", "released"]),
)
def test_order_and_grid_hold_for_every_setting(t, gamma, delta_t, delta_s, limit, rule):
    variant = Variant(gamma=gamma, delta_t=delta_t, delta_s=delta_s, max_inversion_steps=limit, mu_rule=rule)
    steps = plan_steps(t, variant, Timesteps(), 0)
    assert steps.s == max(t - delta_t, 0)
    assert 0 <= steps.s <= steps.mu <= steps.t == t
    grid = steps.inversion
    assert grid[-1] == steps.s
    assert grid[0] == (0 if limit is None else max(steps.s - limit * delta_s, 0))
    strides = [after - before for before, after in pairwise(grid)]
    assert all(stride == delta_s for stride in strides[:-1])
    assert all(0 < stride <= delta_s for stride in strides)
    assert limit is None or len(strides) <= limit


def test_known_values():
    assert plan_steps(900, Variant(gamma=0.3, delta_t=80), Timesteps(), 0).mu == 844
    released = plan_steps(900, Variant(gamma=0.3, delta_t=80, mu_rule="released"), Timesteps(), 0)
    assert released.mu == round(820 + math.sqrt(1 - 0.09) * 80) == 896
    assert plan_steps(2, Variant(gamma=0.5, delta_t=1), Timesteps(), 0).mu == 2  # a half goes up
    assert plan_steps(50, Variant(gamma=0.5), Timesteps(), 0).inversion == (0,)
    assert plan_steps(999, Variant(), Timesteps(), 0).inversion == (0, 200, 400, 600, 800, 919)
    limited = plan_steps(999, Variant(delta_s=100, max_inversion_steps=5), Timesteps(), 0)
    assert limited.inversion == (419, 519, 619, 719, 819, 919)


@pytest.mark.parametrize(("rule", "at_zero", "at_one"), [("paper", 420, 500), ("released", 500, 420)])
def test_ends_of_gamma(rule, at_zero, at_one):
    assert plan_steps(500, Variant(gamma=0, mu_rule=rule), Timesteps(), 0).mu == at_zero
    assert plan_steps(500, Variant(gamma=1, mu_rule=rule), Timesteps(), 0).mu == at_one


@pytest.mark.parametrize(("method", "mu"), [("ism", 420), ("csd", 500), ("sds", 500), ("tsm", 444)])
def test_only_tsm_heeds_gamma(method, mu):
    assert plan_steps(500, Variant(method=method, gamma=0.3), Timesteps(), 0).mu == mu


def test_annealing_is_a_line_that_ends_where_it_should():
    assert [anneal(980, 500, i, 750) for i in (0, 375, 750, 10_000)] == [980, 740, 500, 500]
    assert anneal(980, 500, 0, 0) == 500
    variant = Variant(delta_t=80, delta_t_start=100)
    intervals = [500 - plan_steps(500, variant, RELEASED, i).s for i in (0, 375, 750, 751)]
    assert intervals == [100, 90, 80, 80]
    assert plan_steps(500, Variant(), RELEASED, 0).s == 420  # constant where delta_t_start is not set
    assert plan_steps(500, variant, Timesteps(anneal_iterations=0), 0).s == 420


def draws(timesteps, iteration, count=20_000, length=1000):
    generator = torch.Generator().manual_seed(7)
    return torch.tensor([draw_t(timesteps, iteration, length, generator) for _ in range(count)])


@pytest.mark.parametrize(
    ("timesteps", "iteration", "low", "high"),
    [(Timesteps(), 0, 1, 999), (RELEASED, 0, 20, 980), (RELEASED, 375, 20, 740), (RELEASED, 750, 20, 500)],
)
def test_draws_are_uniform_over_their_range(timesteps, iteration, low, high):
    t = draws(timesteps, iteration)
    assert t.min() >= low and t.max() <= high
    edges = torch.linspace(low, high + 1, 11)
    counts = torch.histogram(t.float(), edges).hist
    expected = torch.tensor([math.ceil(b) - math.ceil(a) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)])
    expected = expected / expected.sum() * len(t)
    assert ((counts - expected) ** 2 / expected).sum() < 33.7  # chi-square, 9 degrees of freedom, p = 1e-4


def test_ends_are_drawn_and_short_schedules_hold():
    assert set(draws(Timesteps(), 0, 300, length=4).tolist()) == {1, 2, 3}
    narrow = Timesteps(rule="released", t_min=20, t_max=22, t_max_start=22)
    assert set(draws(narrow, 0, 300).tolist()) == {20, 21, 22}
    assert set(draws(narrow, 0, 50, length=10).tolist()) == {9}


def test_a_draw_costs_the_same_under_every_setting():
    after = []
    for timesteps in (Timesteps(), RELEASED, Timesteps(rule="released", t_min=5, t_max=5, t_max_start=6)):
        generator = torch.Generator().manual_seed(3)
        draw_t(timesteps, 0, 1000, generator)
        after.append(torch.rand(4, generator=generator))
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])
