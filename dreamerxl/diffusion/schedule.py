"""The noise schedule of a diffusion model and its three parametrisations.

    T        length of the schedule (1000 for Stable Diffusion); timesteps t in 0..T-1
    alpha_t  alphas_cumprod[t], the signal's share of variance, strictly falling, in (0, 1)
    x_t      sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps                     [R, C, h, w]
    v_t      sqrt(alpha_t) eps - sqrt(1 - alpha_t) x_0
The paper's alpha_t is diffusers' ``alphas_cumprod``. The paper sets alpha_0 = 1; a trained schedule starts just
below (0.99915 for Stable Diffusion), and that value stands here for the paper's.

A timestep is an int, or a LongTensor [R] with one timestep a row; alpha is then [R, 1, 1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dreamerxl.errors import WeightsError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")
TABLE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


@dataclass(frozen=True, eq=False)
class Schedule:
    """alphas_cumprod [T] and what the network's output means."""

    alphas_cumprod: Tensor  # [T] float32 (float64 where a test asks for it)
    prediction_type: PredictionType = "epsilon"

    def __len__(self) -> int:
        return self.alphas_cumprod.shape[0]

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule with its table on the device. A table on the CPU serves int timesteps on any device."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def alpha(self, t: int | Tensor) -> Tensor:
        """alpha_t: a scalar for an int, [R, 1, 1, 1] for a LongTensor [R]."""
        if isinstance(t, Tensor):
            return self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        if not 0 <= t < len(self):  # a negative index would quietly count from the noisy end
            raise IndexError(f"timestep {t} is outside the schedule's 0..{len(self) - 1}")
        return self.alphas_cumprod[t]

    def signal(self, t: int | Tensor) -> Tensor:
        """sqrt(alpha_t), the factor of x_0 in x_t."""
        return self.alpha(t).sqrt()

    def noise(self, t: int | Tensor) -> Tensor:
        """sqrt(1 - alpha_t), the factor of eps in x_t."""
        return (1 - self.alpha(t)).sqrt()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t from x_0 and noise: sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) noise."""
        return self.signal(t) * x_0 + self.noise(t) * noise

    def predict_x0(self, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """x_0 as x_t and eps imply it: the bracket of Eqs. 1, 2, 5 and 6."""
        return (x_t - self.noise(t) * eps) / self.signal(t)

    def to_eps(self, output: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """eps from the network's output at x_t."""
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "v_prediction":
            return self.signal(t) * output + self.noise(t) * x_t
        return (x_t - self.signal(t) * output) / self.noise(t)

    def to_x0(self, output: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """x_0 from the network's output at x_t, without the detour over eps (exact where alpha_t is near 0)."""
        if self.prediction_type == "epsilon":
            return self.predict_x0(x_t, output, t)
        if self.prediction_type == "v_prediction":
            return self.signal(t) * x_t - self.noise(t) * output
        return output


def from_diffusers(scheduler: Any) -> Schedule:
    """The schedule of a diffusers scheduler, or of its configuration (a dict). Raises WeightsError with a sentence.

    Any scheduler of a discrete beta schedule will do (DDIM, PNDM, Euler, DPM-Solver, ...): they share their training
    noise and differ in their sampling, which is not used here.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
    name = config.get("_class_name", type(scheduler).__name__)
    if "beta_start" not in config and config.get("trained_betas") is None:
        raise WeightsError(f"The model's scheduler {name} has no beta schedule; a model trained with one is accepted.")
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise WeightsError(
            f"The model's scheduler {name} has prediction_type {prediction_type!r}; accepted: {', '.join(PREDICTION_TYPES)}."
        )
    try:
        made = DDIMScheduler(**{key: config[key] for key in TABLE_KEYS if key in config})
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"The model's scheduler {name} has a beta schedule that cannot be built: {error}.") from None
    table = made.alphas_cumprod.float().cpu()
    if not bool(((table >= 0) & (table < 1)).all()):
        raise WeightsError(
            f"The model's scheduler {name} has alphas_cumprod outside 0..1; a schedule that adds noise is accepted."
        )
    # A schedule rescaled to zero terminal SNR ends at alpha = 0, where x_0 and omega divide by zero. The floor is
    # diffusers' own (the smallest half-precision number).
    return Schedule(table.clamp_min(2**-24), prediction_type)
