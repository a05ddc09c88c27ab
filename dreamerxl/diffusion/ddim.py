"""The deterministic DDIM step between any two timesteps (Song et al., 2020; Eqs. 1, 2, 5, 6 of the paper).

    x_t      latents at timestep t     [B, C, h, w]
    eps      noise predicted at x_t    [B, C, h, w]
t_next < t denoises (Eq. 1), t_next > t inverts (Eq. 2, which takes eps at the nearer end for eps at the farther).
In x / sqrt(alpha) against sqrt(1 - alpha) / sqrt(alpha) it is Euler's method, so its global error is of first order.
"""

from __future__ import annotations

from torch import Tensor

from dreamerxl.diffusion.schedule import Schedule


def ddim_step(schedule: Schedule, x_t: Tensor, eps: Tensor, t: int | Tensor, t_next: int | Tensor) -> Tensor:
    """x at t_next from x_t and eps (Eqs. 1, 2, 5, 6): sqrt(alpha_next) x_0 + sqrt(1 - alpha_next) eps."""
    return schedule.signal(t_next) * schedule.predict_x0(x_t, eps, t) + schedule.noise(t_next) * eps
