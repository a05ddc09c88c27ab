"""The 2-D toy experiment (Figure 3, Proposition 1): data whose exact noise prediction is known, so that every error is.

    data     a mixture of K isotropic Gaussians in the plane: means [K, 2], deviations [K], weights [K]
    x        N points as latents [N, 2, 1, 1], float64: the methods' own code runs on them
    lam      sqrt((1 - alpha) / alpha), y = x / sqrt(alpha): the coordinates in which DDIM is Euler's method
ISM and TSM are driven here with the exact prediction in place of a network, so all that is left is the error of DDIM's
finite steps. Three things are called the error of the approximated x_0, and all are measured:

    carried    x_0 as it is carried by the step that made a point. ISM's x_s was made from the x_0 predicted one inversion
               step earlier and its x_t from the one at s; TSM makes both from the one at s, so its gap is 0 by
               construction, for any mu above s. This is the paper's argument (sections 3.1 and 3.2).
    predicted  x_0 as the prediction at the point itself implies it: x_0(x_t, t) against x_0(x_s, s) or x_0(x_mu, mu).
               This is what the gradient sees; it is continuous in mu and reaches ISM's value at mu = s.
    true       the distance of a point from the exact probability-flow trajectory through x_0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerxl.config import Timesteps, Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.queries import Queries, Query
from dreamerxl.distillation.score import Score
from dreamerxl.distillation.timesteps import Steps, plan_steps
from dreamerxl.errors import SettingsError
from dreamerxl.guidance.denoiser import advance_together

POINTS = 240
TOLERANCE = 1e-10  # of the exact trajectory
PAPER_MUS = (800, 801, 810)  # Figure 3: ISM, and TSM one and ten steps later, at t = 900 and s = 800


@dataclass(frozen=True, eq=False)
class Mixture:
    """Isotropic Gaussians in the plane."""

    means: Tensor  # [K, 2]
    deviations: Tensor  # [K]
    weights: Tensor  # [K], sum 1

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points [N, 2]."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, generator=generator, dtype=self.means.dtype)
        return self.means[which] + self.deviations[which, None] * noise

    def eps(self, x: Tensor, alpha: Tensor | float) -> Tensor:
        """E[noise | x_t = x] at points [N, 2]: each component's own prediction, weighted by its posterior."""
        alpha = torch.as_tensor(alpha, dtype=x.dtype)
        variance = alpha * self.deviations**2 + 1 - alpha  # [K]
        apart = x[:, None] - alpha.sqrt() * self.means  # [N, K, 2]
        logits = self.weights.log() - variance.log() - apart.square().sum(-1) / (2 * variance)
        shares = logits.softmax(1) / variance  # [N, K]
        return (1 - alpha).sqrt() * torch.einsum("nk,nkd->nd", shares, apart)

    def component(self, index: int) -> Mixture:
        """One of the Gaussians alone: what the prompt stands for."""
        one = slice(index, index + 1)
        return Mixture(self.means[one], self.deviations[one], torch.ones_like(self.weights[one]))


def ring(count: int = 8, radius: float = 1.0, deviation: float = 0.18) -> Mixture:
    """Gaussians on a circle, unequal in weight and width, so that no symmetry hides an error."""
    angles = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    weights = 1 + 0.5 * (2 * angles + 0.7).sin()
    deviations = deviation * (1 + 0.4 * (angles + 0.3).cos())
    return Mixture(radius * torch.stack([angles.cos(), angles.sin()], 1), deviations, weights / weights.sum())


@functools.cache
def schedule(length: int = 1000) -> Schedule:
    """Stable Diffusion's schedule in float64: betas whose square roots rise linearly."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, length, dtype=torch.float64) ** 2
    return Schedule((1 - betas).cumprod(0))


@dataclass(frozen=True, eq=False)
class World:
    """The data, the prompt's share of it, and how strongly the prompt pulls."""

    data: Mixture
    prompt: Mixture
    guidance_scale: float = 7.5

    def answer(self, query: Query) -> Tensor:
        """The exact prediction for a method's question about points [N, 2, 1, 1]."""
        x, alpha = query.x[:, :, 0, 0], schedule().alpha(query.t)
        eps = self.data.eps(x, alpha)
        if query.guided:
            eps = eps + self.guidance_scale * (self.prompt.eps(x, alpha) - eps)
        return eps[:, :, None, None]


def world(guidance_scale: float = 7.5) -> World:
    """The ring, and a prompt for its Gaussian at the top."""
    data = ring()
    return World(data, data.component(2), guidance_scale)


@dataclass(frozen=True, eq=False)
class Journey:
    """What one method did with the points: its score, and what it asked in order."""

    variant: Variant
    steps: Steps
    score: Score
    asked: list[tuple[Query, Tensor]]  # each question with its answer

    def at(self, t: int) -> tuple[Tensor, Tensor]:
        """(x, eps) of the unguided question at a timestep. KeyError where there was none."""
        for query, eps in self.asked:
            if query.t == t and not query.guided:
                return query.x, eps
        raise KeyError(t)


def travel(here: World, x_0: Tensor, steps: Steps, noise: Tensor, variant: Variant) -> Journey:
    """Drive a method's generator over points [N, 2, 1, 1] with the exact predictions."""
    asked: list[tuple[Query, Tensor]] = []

    def answer(questions: dict[int, Queries]) -> dict[int, tuple[Tensor, ...]]:
        answers = tuple(here.answer(query) for query in questions[0])
        asked.extend(zip(questions[0], answers, strict=True))
        return {0: answers}

    method = METHODS[variant.method](x_0, steps, noise, schedule(), variant)
    (score,) = advance_together([method], answer)  # pyright: ignore[reportArgumentType]
    return Journey(variant, steps, score, asked)


def exact_flow(data: Mixture, x: Tensor, start: int, stops: Sequence[int]) -> dict[int, Tensor]:
    """The probability-flow trajectory through points [N, 2] at timestep ``start``, at each of ``stops``.

    dy / d lam = eps in y = x / sqrt(alpha), by scipy's eighth-order Runge-Kutta. No step size of DDIM is in it.
    """
    from scipy.integrate import solve_ivp

    table = schedule()
    lams = {t: float(table.noise(t) / table.signal(t)) for t in {start, *stops}}

    def slope(log_lam: float, flat: np.ndarray) -> np.ndarray:
        lam = math.exp(log_lam)
        alpha = 1 / (1 + lam * lam)
        y = torch.from_numpy(flat).view(-1, 2)
        return (lam * data.eps(y * math.sqrt(alpha), alpha)).reshape(-1).numpy()

    found: dict[int, Tensor] = {}
    for way in ([t for t in stops if t >= start], [t for t in stops if t < start]):
        if not way:
            continue
        ends = sorted({math.log(lams[t]) for t in way}, reverse=way[0] < start)
        y = (x / table.signal(start)).reshape(-1).numpy()
        span = (math.log(lams[start]), ends[-1])
        if span[0] == span[1]:
            found |= {t: x for t in way}
            continue
        solved = solve_ivp(slope, span, y, "DOP853", ends, rtol=TOLERANCE, atol=TOLERANCE)
        at = dict(zip(ends, solved.y.T, strict=True))
        found |= {t: torch.from_numpy(at[math.log(lams[t])].copy()).view(-1, 2) * table.signal(t) for t in way}
    return found


@dataclass(frozen=True, eq=False)
class Gap:
    """One method's errors at one mu, point by point [N]; ``points`` and ``other`` [N, 2] are x_0 predicted at t and mu."""

    name: str
    t: int
    s: int
    mu: int
    points: Tensor
    other: Tensor
    carried: Tensor
    predicted: Tensor
    true_mu: Tensor
    true_t: Tensor
    reconstruction: Tensor  # [N, 2]: eps(x_mu, mu) - eps(x_t, t), both unguided (Eq. 4)


@dataclass(frozen=True)
class ToySettings:
    """What the sliders of the toy set."""

    t: int = 900
    s: int = 800
    mus: tuple[int, ...] = PAPER_MUS  # mu = s is ISM
    delta_s: int = 200
    points: int = POINTS
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.s < self.t <= 999:
            raise SettingsError(f"The toy has s = {self.s} and t = {self.t}; whole numbers with 0 < s < t <= 999 are accepted.")
        for mu in self.mus:
            if not self.s <= mu <= self.t:
                raise SettingsError(f"The toy has mu = {mu}; {self.s} to {self.t}, from s to t, is accepted.")
        if not 1 <= self.delta_s <= 999:
            raise SettingsError(f"The toy has delta_S = {self.delta_s}; 1 to 999 timesteps are accepted.")
        if not 2 <= self.points <= 10_000:
            raise SettingsError(f"The toy has {self.points} points; 2 to 10,000 are accepted.")


def typed_settings(words: Sequence[str]) -> ToySettings:
    """The toy's settings from words such as 't=900' and 'mu=801,810'; ISM is always there. Raises SettingsError."""
    names = {"t": "t", "s": "s", "mu": "mus", "delta_s": "delta_s", "points": "points", "seed": "seed"}
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        numbers = text.split(",")
        whole = all(number.strip().isdecimal() and len(number) < 10 for number in numbers)
        if name not in names or not equals or not whole or (name != "mu" and len(numbers) > 1):
            known = ", ".join(names)
            raise SettingsError(f"The toy was given {word[:40]!r}; whole numbers for {known} are accepted, as in t=900.")
        found[names[name]] = tuple(map(int, numbers)) if name == "mu" else int(text)
    s, t = found.get("s", ToySettings.s), found.get("t", ToySettings.t)
    mus = found.get("mus", tuple(mu for mu in PAPER_MUS if s <= mu <= t))
    return ToySettings(**{**found, "mus": tuple(sorted({s, *mus}))})


def draw_points(data: Mixture, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """x_0 and a noise, both [N, 2, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = data.sample(count, generator)
    noise = torch.randn(count, 2, generator=generator, dtype=x_0.dtype)
    return x_0[:, :, None, None], noise[:, :, None, None]


def run_toy(settings: ToySettings, here: World | None = None) -> list[Gap]:
    """Figure 3: the errors of ISM (mu = s) and of TSM at each mu, over the same points."""
    here = here or world()
    x_0, noise = draw_points(here.data, settings.points, settings.seed)
    exact = exact_flow(here.data, x_0[:, :, 0, 0], 0, sorted({settings.s, settings.t, *settings.mus}))
    return [measure(here, x_0, noise, exact, settings, mu) for mu in settings.mus]


def measure(here: World, x_0: Tensor, noise: Tensor, exact: dict[int, Tensor], settings: ToySettings, mu: int) -> Gap:
    """One method's errors at one mu."""
    variant = Variant(method="ism" if mu == settings.s else "tsm", delta_t=settings.t - settings.s, delta_s=settings.delta_s)
    steps = replace(plan_steps(settings.t, variant, Timesteps(), 0), mu=mu)
    journey = travel(here, x_0, steps, noise, variant)
    table = schedule()
    x_s, eps_s = journey.at(steps.s)
    x_mu, eps_mu = journey.at(mu) if mu < steps.t else (journey.score.x_t, here.answer(Query(journey.score.x_t, mu, False)))
    x_t, eps_t = journey.score.x_t, here.answer(Query(journey.score.x_t, steps.t, guided=False))
    made_t = table.predict_x0(x_s, eps_s, steps.s)  # what x_t was stepped from
    made_mu = made_t
    if mu == steps.s:  # x_s was stepped from the prediction of the inversion's step before
        before = steps.inversion[-2] if len(steps.inversion) > 1 else 0
        made_mu = table.predict_x0(*journey.at(before), before)
    at_t, at_mu = table.predict_x0(x_t, eps_t, steps.t), table.predict_x0(x_mu, eps_mu, mu)
    return Gap(
        name=f"ISM at {mu}" if mu == steps.s else f"TSM at {mu}",
        t=steps.t,
        s=steps.s,
        mu=mu,
        points=at_t[:, :, 0, 0],
        other=at_mu[:, :, 0, 0],
        carried=_length(made_t - made_mu),
        predicted=_length(at_t - at_mu),
        true_mu=(x_mu[:, :, 0, 0] - exact[mu]).norm(dim=1),
        true_t=(x_t[:, :, 0, 0] - exact[steps.t]).norm(dim=1),
        reconstruction=(eps_mu - eps_t)[:, :, 0, 0],
    )


def _length(x: Tensor) -> Tensor:
    return x[:, :, 0, 0].norm(dim=1)


READINGS = {
    "elements": "x_mu > x_s, number by number, as Eq. 13 prints it",
    "distance": "|x_t - x_s| > |x_t - x_mu|: the accumulated error as the distance of Definition 1",
    "gradient": "|eps(x_t) - eps(x_s)| > |eps(x_t) - eps(x_mu)|: the reconstruction term of Eq. 4",
    "truth": "x_mu is nearer to the exact trajectory than x_s is",
}


@dataclass(frozen=True, eq=False)
class Proposition:
    """Shares 0..1 of the points for which each reading of Proposition 1 holds: [T, G] over t and gamma."""

    ts: tuple[int, ...]
    gammas: tuple[float, ...]
    delta_t: int
    delta_s: int
    shares: dict[str, np.ndarray]


def try_proposition(
    ts: Sequence[int] = tuple(range(100, 1000, 50)),
    gammas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    delta_t: int = 80,
    delta_s: int = 200,
    points: int = POINTS,
    seed: int = 0,
) -> Proposition:
    """Proposition 1 (eta_ISM > eta_TSM) measured in each of its readings, at every t and gamma, s = t - delta_t.

    A timestep t <= delta_t has s = 0, where there is nothing to invert; it is refused. Ties do not count as holding.
    """
    if min(ts) <= delta_t:
        raise SettingsError(f"Proposition 1 speaks of s = t - delta_T above 0; t = {min(ts)} and delta_T = {delta_t} give none.")
    here = world()
    x_0, noise = draw_points(here.data, points, seed)
    shares = {name: np.zeros((len(ts), len(gammas))) for name in READINGS}
    table = schedule()
    for row, t in enumerate(ts):
        variant = Variant(method="ism", delta_t=delta_t, delta_s=delta_s)
        steps = plan_steps(t, variant, Timesteps(), 0)
        journey = travel(here, x_0, steps, noise, variant)
        x_s, eps_s = journey.at(steps.s)
        x_t = journey.score.x_t
        eps_t = here.answer(Query(x_t, t, guided=False))
        mus = [plan_steps(t, replace(variant, method="tsm", gamma=gamma), Timesteps(), 0).mu for gamma in gammas]
        exact = exact_flow(here.data, x_0[:, :, 0, 0], 0, sorted({steps.s, *mus}))
        x0_hat = table.predict_x0(x_s, eps_s, steps.s)
        for column, mu in enumerate(mus):
            x_mu = x_s if mu == steps.s else table.add_noise(x0_hat, eps_s, mu)  # Eq. 5
            eps_mu = here.answer(Query(x_mu, mu, guided=False))
            held = {
                "elements": (x_mu > x_s).double(),
                "distance": (_length(x_t - x_s) > _length(x_t - x_mu)).double(),
                "gradient": (_length(eps_t - eps_s) > _length(eps_t - eps_mu)).double(),
                "truth": ((x_mu[:, :, 0, 0] - exact[mu]).norm(dim=1) < (x_s[:, :, 0, 0] - exact[steps.s]).norm(dim=1)).double(),
            }
            for name, holds in held.items():
                shares[name][row, column] = holds.mean().item()
    return Proposition(tuple(ts), tuple(gammas), delta_t, delta_s, shares)
