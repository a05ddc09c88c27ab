"""The 2-D toy: exact predictions, exact trajectories, and what it says of Figure 3 and Proposition 1."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

from dreamerxl.config import Timesteps, Variant
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.errors import SettingsError
from dreamerxl.lab import toy
from dreamerxl.lab.plot import Panel, limits, shade, ticks
from dreamerxl.lab.toy_figures import figure_3, proposition_figure

RING = toy.ring()


def log_density(x: np.ndarray, alpha: float) -> float:
    """log p of noised data at one point, by scipy's normal distributions."""
    parts = [
        weight * multivariate_normal.pdf(x, math.sqrt(alpha) * mean, (alpha * deviation**2 + 1 - alpha) * np.eye(2))
        for mean, deviation, weight in zip(RING.means.numpy(), RING.deviations.tolist(), RING.weights.tolist(), strict=True)
    ]
    return math.log(sum(parts))


@pytest.mark.parametrize("alpha", [0.005, 0.4, 0.99])
def test_the_prediction_is_that_of_the_density(alpha: float) -> None:
    """eps = -sqrt(1 - alpha) grad log p (Tweedie), the gradient by central differences."""
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, step = RING.eps(points, alpha), 1e-5
    for point, eps in zip(points.numpy(), found.numpy(), strict=True):
        for axis in range(2):
            shift = np.eye(2)[axis] * step
            slope = (log_density(point + shift, alpha) - log_density(point - shift, alpha)) / (2 * step)
            assert eps[axis] == pytest.approx(-math.sqrt(1 - alpha) * slope, abs=1e-7)


def independent_flow(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The probability-flow ODE in other coordinates and by another solver: dx/da = (x + grad log p) / (2 a), a = alpha,
    the score written out from the density, by LSODA."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    means, deviations, weights = RING.means.numpy(), RING.deviations.numpy(), RING.weights.numpy()

    def slope(alpha: float, flat: np.ndarray) -> np.ndarray:
        points = flat.reshape(-1, 2)
        variance = alpha * deviations**2 + 1 - alpha
        apart = math.sqrt(alpha) * means - points[:, None]
        density = weights / variance * np.exp(-(apart**2).sum(-1) / (2 * variance))
        score = (density[..., None] * apart / variance[:, None]).sum(1) / density.sum(1, keepdims=True)
        return ((points + score) / (2 * alpha)).reshape(-1)

    span = (alphas[start], alphas[end])
    solved = solve_ivp(slope, span, x.reshape(-1).numpy(), "LSODA", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(solved.y[:, -1].reshape(-1, 2))


@pytest.mark.parametrize(("start", "end"), [(0, 900), (0, 800), (900, 200)])
def test_the_exact_trajectory_is_that_of_an_independent_solution(start: int, end: int) -> None:
    x = RING.sample(12, torch.Generator().manual_seed(3))
    found = toy.exact_flow(RING, x, start, [end, 500])[end]
    assert (found - independent_flow(x, start, end)).abs().max() < 1e-6


def test_a_trajectory_leads_back_to_where_it_began() -> None:
    x = RING.sample(12, torch.Generator().manual_seed(4))
    there = toy.exact_flow(RING, x, 0, [900])[900]
    assert (toy.exact_flow(RING, there, 900, [0])[0] - x).abs().max() < 1e-6
    assert torch.equal(toy.exact_flow(RING, x, 300, [300])[300], x)


def by_hand(x: np.ndarray, grid: list[int]) -> np.ndarray:
    """DDIM inversion of points along a grid, Eq. 2 as printed, in numpy."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for here, there in pairwise(grid):
        a, b = alphas[here], alphas[there]
        eps = RING.eps(torch.from_numpy(x), a).numpy()
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - b) * eps
    return x


def test_the_methods_themselves_are_driven() -> None:
    here, variant = toy.world(), Variant(method="tsm", gamma=0.25, delta_t=100, delta_s=150)
    x_0, noise = toy.draw_points(here.data, 20, 0)
    steps = plan_steps(700, variant, Timesteps(), 0)
    journey = toy.travel(here, x_0, steps, noise, variant)
    expected = by_hand(x_0[:, :, 0, 0].numpy(), [0, 150, 300, 450, 600, 625])
    assert steps.mu == 625 and np.abs(journey.at(625)[0][:, :, 0, 0].numpy() - expected).max() < 1e-12
    expected = by_hand(x_0[:, :, 0, 0].numpy(), [0, 150, 300, 450, 600, 700])
    assert np.abs(journey.score.x_t[:, :, 0, 0].numpy() - expected).max() < 1e-12
    with pytest.raises(KeyError):
        journey.at(650)


def test_finer_inversion_comes_to_the_exact_trajectory_at_first_order() -> None:
    errors = {d: toy.run_toy(toy.ToySettings(mus=(800,), delta_s=d))[0].true_mu.mean().item() for d in (16, 8, 4)}
    assert 1.6 < errors[16] / errors[8] < 2.4 and 1.6 < errors[8] / errors[4] < 2.4


def test_figure_3_shows_the_jump_of_what_is_carried_and_that_the_gradient_has_none() -> None:
    ism, one, ten = toy.run_toy(toy.ToySettings())
    assert ism.carried.min() > 0 and one.carried.abs().max() == ten.carried.abs().max() == 0
    steps = (ism.reconstruction - one.reconstruction).norm(dim=1)
    assert steps.max() < 0.05 * ism.reconstruction.norm(dim=1).mean(), "one timestep changes the gradient by little"
    assert ten.reconstruction.norm(dim=1).mean() < one.reconstruction.norm(dim=1).mean() < ism.reconstruction.norm(dim=1).mean()
    (end,) = toy.run_toy(toy.ToySettings(mus=(900,)))
    assert end.predicted.abs().max() == 0 and end.reconstruction.abs().max() == 0, "mu = t compares a point with itself"


def test_true_errors_are_distances_from_the_exact_trajectory() -> None:
    settings = toy.ToySettings(mus=(820,), points=6)
    (gap,) = toy.run_toy(settings)
    x_0, _ = toy.draw_points(RING, 6, 0)
    x_mu = torch.from_numpy(by_hand(x_0[:, :, 0, 0].numpy(), [0, 200, 400, 600, 800, 820]))
    expected = (x_mu - independent_flow(x_0[:, :, 0, 0], 0, 820)).norm(dim=1)
    assert (gap.true_mu - expected).abs().max() < 1e-6


def test_the_proposition_is_counted_point_by_point() -> None:
    found = toy.try_proposition(ts=(300, 900), gammas=(0.4,), points=10)
    x_0 = toy.draw_points(RING, 10, 0)[0][:, :, 0, 0].numpy()
    for row, t in enumerate((300, 900)):
        grid = [*range(0, t - 80, 200), t - 80]
        x_s, x_mu, x_t = by_hand(x_0, grid), by_hand(x_0, [*grid, t - 48]), by_hand(x_0, [*grid, t])
        assert found.shares["elements"][row, 0] == pytest.approx((x_mu > x_s).mean())
        far, near = np.linalg.norm(x_t - x_s, axis=1), np.linalg.norm(x_t - x_mu, axis=1)
        assert found.shares["distance"][row, 0] == pytest.approx((far > near).mean())
        exact = [independent_flow(torch.from_numpy(x_0), 0, end).numpy() for end in (t - 48, t - 80)]
        closer = np.linalg.norm(x_mu - exact[0], axis=1) < np.linalg.norm(x_s - exact[1], axis=1)
        assert found.shares["truth"][row, 0] == pytest.approx(closer.mean())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"s": 900}, "0 < s < t"), ({"mus": (700,)}, "mu = 700"), ({"delta_s": 0}, "delta_S = 0"), ({"points": 1}, "1 points")],
)
def test_settings_that_mean_nothing_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        replace(toy.ToySettings(), **changes)
    with pytest.raises(SettingsError, match="t = 80"):
        toy.try_proposition(ts=(80,), gammas=(0.5,))


def test_the_pictures_are_whole_documents_with_their_numbers() -> None:
    svg, data = figure_3(toy.ToySettings(points=20))
    root = ElementTree.fromstring(svg)
    texts = "".join(root.itertext())
    assert "TSM at 801 against t = 900" in texts and f"predicted {data['rows'][0]['predicted']:.4f}" in texts
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) >= 3 * 2 * 20
    svg, data = proposition_figure(toy.try_proposition(ts=(300, 600), gammas=(0.5,), points=5))
    cells = [element for element in ElementTree.fromstring(svg).iter() if element.get("fill") == shade(1.0)]
    assert len(cells) == sum(share == 1 for rows in data["shares"].values() for row in rows for share in row)


def test_a_panel_puts_values_where_they_belong() -> None:
    panel = Panel("x < 1", (0, 10), (1, 100), log_y=True, width=166, height=188)  # 100 x 100 inside its margins
    assert panel.at(5, 10) == pytest.approx((52 + 50, 44 + 50))
    panel.dots([5, 50], [10, 10], "#000")
    assert len(panel.parts) == 1, "what lies outside is not drawn"
    assert "x &lt; 1" in panel.drawn()
    assert [value for value, _ in ticks(0, 1)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert limits([1.0, 3.0, math.nan], zero=True)[0] < 0
    assert shade(0.0) == "#b2182b" and shade(0.5) == "#f7f7f7"


def test_the_toy_is_set_by_words() -> None:
    assert toy.typed_settings([]) == toy.ToySettings()
    assert toy.typed_settings(["t=700", "s=600", "mu=650,601"]).mus == (600, 601, 650)
    assert toy.typed_settings(["delta_s=50", "seed=3"]) == toy.ToySettings(delta_s=50, seed=3)
    for word in ("t", "t=", "t=1.5", "t=9,8", "u=3", "s=-4", "mu=a"):
        with pytest.raises(SettingsError, match=f"was given '{word}'"):
            toy.typed_settings([word])
