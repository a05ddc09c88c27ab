"""A world in which the exact noise prediction is known: data N(mean, variance) per latent element.

In the coordinates y = x / sqrt(alpha), lam = sqrt((1 - alpha) / alpha) the exact prediction is
eps(y, lam) = lam (y - mean) / (variance + lam^2), and the probability-flow path from y_a to y_b is
y_b - mean = (y_a - mean) sqrt((variance + lam_b^2) / (variance + lam_a^2)).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamerxl.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Gaussian:
    mean: Tensor | float
    variance: float

    def eps(self, x: Tensor, alpha: Tensor | float) -> Tensor:
        """E[noise | x_t = x], from the conditional mean of jointly Gaussian x_t and noise."""
        return (1 - alpha) ** 0.5 * (x - alpha**0.5 * self.mean) / (alpha * self.variance + 1 - alpha)


def stable_diffusion_alphas(length: int = 1000) -> Tensor:
    """Stable Diffusion's table in float64: betas whose square roots rise linearly."""
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, length, dtype=torch.float64) ** 2).cumprod(0)


def drive(method: Any, predict: Any) -> Any:
    """The return value of a generator of queries, each answered by predict(query)."""
    answers = None
    while True:
        try:
            queries = method.send(answers)
        except StopIteration as done:
            return done.value
        answers = tuple(predict(query) for query in queries)


def exact_denoiser(schedule: Schedule, uncond: Gaussian, negative: Gaussian, cond: Gaussian, guidance_scale: float) -> Any:
    """Answers queries with the exact predictions of three Gaussian worlds, under classifier-free guidance."""

    def predict(query: Any) -> Tensor:
        alpha = schedule.alphas_cumprod[query.t]
        if not query.guided:
            return uncond.eps(query.x, alpha)
        eps_negative = negative.eps(query.x, alpha)
        return eps_negative + guidance_scale * (cond.eps(query.x, alpha) - eps_negative)

    return predict
