"""The deterministic DDIM step between any two timesteps (Song et al., 2020; Eqs. 1, 2, 5, 6 of the paper).

    x_t      latents at timestep t     [B, C, h, w]
    eps      noise predicted at x_t    [B, C, h, w]
t_next < t denoises (Eq. 1), t_next > t inverts (Eq. 2, which takes eps at the nearer end for eps at the farther).
The step is taken without x_0, whose 1 / sqrt(alpha_t) would enlarge the rounding of eps, to be taken back by the next
factor: x_next = stretch x_t + turn eps, the two numbers in float64. Rounded once each, they leave float32 latents about
as close to the exact step as float32 can hold them.
In x / sqrt(alpha) against sqrt(1 - alpha) / sqrt(alpha) it is Euler's method, so its global error is of first order.
"""

from __future__ import annotations

from torch import Tensor

from dreamerxl.diffusion.schedule import Schedule


def ddim_step(schedule: Schedule, x_t: Tensor, eps: Tensor, t: int | Tensor, t_next: int | Tensor) -> Tensor:
    """x at t_next from x_t and eps (Eqs. 1, 2, 5, 6): sqrt(alpha_next) x_0 + sqrt(1 - alpha_next) eps."""
    here, there = schedule.alpha(t).double(), schedule.alpha(t_next).double()
    stretch = (there / here).sqrt()
    turn = (1 - there).sqrt() - stretch * (1 - here).sqrt()
    dtype = schedule.alphas_cumprod.dtype
    return stretch.to(dtype) * x_t + turn.to(dtype) * eps
