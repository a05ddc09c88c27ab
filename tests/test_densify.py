"""Adaptive density control: what grows, what goes, and that every view has its say."""

from __future__ import annotations

from typing import Any

import pytest
import splatting_reference as reference
import torch

from dreamerxl.config import Densification
from dreamerxl.gaussians.densify import Densifier
from dreamerxl.gaussians.rasterize import rasterize
from dreamerxl.gaussians.scene import Params, activate, make_params

COUNT = 60
REFINE = Densification(start=0, stop=100, every=2, grad_threshold=1e-9, prune_opacity=0.005, reset_every=0, max_count=10_000)
Optimizers = dict[str, torch.optim.Optimizer]


def make_scene(seed: int = 0) -> tuple[Params, Optimizers]:
    params = make_params(*(t.float() for t in reference.random_scene(COUNT, seed, opacity=(0.2, 0.9))))
    return params, {name: torch.optim.Adam([p], lr=1e-3) for name, p in params.items()}


def iterate(
    densifier: Densifier, params: Params, optimizers: Optimizers, iteration: int, view: int | None = None, views: int = 3
) -> bool:
    """One iteration of training: every view alike, the loss on one of them or on all."""
    viewmats, Ks = reference.orbit(1, 40, 30)
    viewmats, Ks = viewmats.float().expand(views, 4, 4), Ks.float().expand(views, 3, 3)
    render = rasterize(activate(params), viewmats, Ks, 40, 30)
    densifier.before_backward(params, optimizers, iteration, render.info)
    picture = render.rgb if view is None else render.rgb[view]
    (picture * torch.linspace(-1, 1, 40)[:, None]).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return densifier.after_step(params, optimizers, iteration, render.info)


def run(settings: Densification, iterations: int, seed: int = 0, **options: Any) -> tuple[Params, Optimizers, Densifier]:
    params, optimizers = make_scene()
    densifier = Densifier(settings, 1.0, seed)
    for iteration in range(iterations):
        iterate(densifier, params, optimizers, iteration, **options)
    return params, optimizers, densifier


def equal(a: Params, b: Params) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("views", [1, 3])
def test_every_view_counts_alike(views: int) -> None:
    first, _, densifier = run(REFINE, 3, view=0, views=views)
    last, _, other = run(REFINE, 3, view=views - 1, views=views)
    assert len(first["means"]) > COUNT
    assert equal(first, last)
    for name in ("grad2d", "count"):
        assert torch.equal(densifier.state[name], other.state[name])


def test_statistics_average_over_visible_views() -> None:
    """gsplat's rule: the norm of a view's gradient times the number of views, averaged over the views that see it."""
    one, all_views, alone = (Densifier(REFINE, 1.0, 0) for _ in range(3))
    for densifier, options in ((one, {"view": 2}), (all_views, {}), (alone, {"views": 1})):
        params, optimizers = make_scene()
        iterate(densifier, params, optimizers, 0, **options)
    averages = [d.state["grad2d"] / d.state["count"].clamp(min=1) for d in (one, all_views, alone)]
    assert averages[2].max() > 0
    torch.testing.assert_close(averages[0], averages[2])  # one view's gradient, times 3 views, over 3 sightings
    torch.testing.assert_close(averages[1], 3 * averages[2])  # the loss is a sum over views; a mean would undo the 3
    assert torch.equal(all_views.state["count"], 3 * alone.state["count"])


def test_small_ones_are_duplicated_and_large_ones_split() -> None:
    params, optimizers = make_scene()
    with torch.no_grad():
        params["scales"][: COUNT // 2] = -7.0  # below 1 % of the scene
        params["scales"][COUNT // 2 :] = -2.0
        params["opacities"][:] = 2.0
    old = {name: p.detach().clone() for name, p in params.items()}
    densifier = Densifier(REFINE, 1.0, 0)
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    for iteration in range(3):
        iterate(densifier, params, optimizers, iteration)
    scales = params["scales"].detach()
    small, large = (scales == -7).all(-1), (scales == -2).all(-1)
    halves = torch.isclose(scales, torch.tensor(-2.0) - torch.tensor(1.6).log()).all(-1)
    assert bool((small | large | halves).all())
    assert int(small.sum()) > COUNT // 2 and int(halves.sum()) == 2 * (COUNT // 2 - int(large.sum())) > 0
    duplicates = params["means"].detach()[small]
    assert len(duplicates.unique(dim=0)) == COUNT // 2
    assert torch.cdist(params["means"].detach()[halves], old["means"][COUNT // 2 :]).min(-1).values.max() < 5 * 0.14


def test_transparent_ones_go_and_too_large_ones_after_the_first_reset() -> None:
    settings = Densification(start=0, stop=100, every=2, grad_threshold=1e6, prune_opacity=0.005, reset_every=3)
    params, optimizers = make_scene()
    with torch.no_grad():
        params["opacities"][:10] = -8.0
        params["scales"][10:15] = 0.0
        params["scales"][15:].clamp_(max=-2.5)
    densifier = Densifier(settings, 1.0, 0)
    counts = []
    for iteration in range(5):
        iterate(densifier, params, optimizers, iteration)
        counts.append(len(params["means"]))
    assert counts == [60, 60, 50, 50, 45]


def test_reset_lowers_opacities_and_clears_their_momentum() -> None:
    settings = Densification(start=50, stop=100, every=10, prune_opacity=0.005, reset_every=3)
    params, optimizers = make_scene()
    densifier = Densifier(settings, 1.0, 0)
    changes = [iterate(densifier, params, optimizers, iteration) for iteration in range(4)]
    assert changes == [False, False, False, True]
    assert params["opacities"].sigmoid().max() <= 0.01001
    assert torch.all(optimizers["opacities"].state[params["opacities"]]["exp_avg"] == 0)
    assert torch.any(optimizers["means"].state[params["means"]]["exp_avg"] != 0)


@pytest.mark.parametrize("change", [{"enabled": False}, {"stop": 0}, {"start": 90}])
def test_nothing_happens_outside_its_time(change: dict[str, Any]) -> None:
    params, optimizers = make_scene()
    densifier = Densifier(Densification(**{**REFINE.__dict__, **change}), 1.0, 0)
    assert not any(iterate(densifier, params, optimizers, iteration) for iteration in range(5))
    assert len(params["means"]) == COUNT


@pytest.mark.parametrize("room", [0, 7, -5])
def test_growth_stops_at_the_largest_count_and_prefers_the_steepest(room: int) -> None:
    settings = Densification(**{**REFINE.__dict__, "max_count": COUNT + room})
    params, optimizers = make_scene()
    densifier = Densifier(settings, 1.0, 0)
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    for iteration in range(2):
        iterate(densifier, params, optimizers, iteration)
    steepest = (densifier.state["grad2d"] / densifier.state["count"]).argsort(descending=True)[: max(room, 0)]
    before = params["means"].detach().clone()
    iterate(densifier, params, optimizers, 2)
    assert len(params["means"]) == COUNT + max(room, 0)
    gone = ~(before[:, None] == params["means"].detach()[None]).all(-1).any(-1)  # splits replace their parent
    assert set(gone.nonzero().flatten().tolist()) == set(steepest.tolist())


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, *_ = run(REFINE, 5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, *_ = run(REFINE, 5, seed=3)
    other, *_ = run(REFINE, 5, seed=4)
    assert equal(first, again)
    assert not equal(first, other)


def test_optimizers_follow_the_parameters() -> None:
    params, optimizers, densifier = run(REFINE, 6)
    assert len(params["means"]) > COUNT
    for name, parameter in params.items():
        (group,) = optimizers[name].param_groups
        assert group["params"] == [parameter] and parameter.is_leaf and parameter.requires_grad
        assert list(optimizers[name].state) == [parameter]
        assert all(optimizers[name].state[parameter][key].shape == parameter.shape for key in ("exp_avg", "exp_avg_sq"))
    assert len(densifier.state["grad2d"]) == len(densifier.state["count"]) == len(params["means"])


@pytest.mark.parametrize("pause", [0, 1, 3])
def test_statistics_survive_a_checkpoint(pause: int) -> None:
    wanted, *_ = run(REFINE, 7, seed=3)
    params, optimizers = make_scene()
    densifier = Densifier(REFINE, 1.0, 3)
    for iteration in range(7):
        if iteration == pause:
            saved = densifier.state_dict()
            assert all(isinstance(t, torch.Tensor) for t in saved.values())
            densifier = Densifier(REFINE, 1.0, 3)
            densifier.load_state_dict(saved)
        iterate(densifier, params, optimizers, iteration)
    assert equal(params, wanted)


def test_a_scene_may_vanish() -> None:
    params, optimizers = make_scene()
    with torch.no_grad():
        params["opacities"][:] = -8.0
    densifier = Densifier(REFINE, 1.0, 0)
    for iteration in range(6):
        iterate(densifier, params, optimizers, iteration)
    assert len(params["means"]) == 0
