"""DDIM inversion: the deterministic way from x_0 up to x_s (Eq. 2; lines 4-6 of Algorithm 1).

x_0, noise  [B, C, h, w]; the grid is ``steps.inversion``, from its first timestep up to s
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.queries import Trajectory, Unconditional
from dreamerxl.distillation.timesteps import Steps


def invert(x_0: Tensor, steps: Steps, noise: Tensor, schedule: Schedule, variant: Variant) -> Trajectory:
    """x_s by DDIM inversion along steps.inversion (Eq. 2); asks one unconditional prediction a step.

    ``inversion_start`` 'clean' (Algorithm 1) takes x_0 itself as lying at the first timestep, in the paper always 0,
    where alpha is 1 (0.99915 in a trained schedule). With a limit on the steps the first timestep may be higher; x_0
    is then still taken as it is, so 'noised' (the released code: x_0 with the noise of the first timestep) fits there.
    """
    first = steps.inversion[0]
    x = schedule.add_noise(x_0, noise, first) if variant.inversion_start == "noised" else x_0
    for here, there in pairwise(steps.inversion):
        (eps,) = yield (Unconditional(x, here),)
        x = ddim_step(schedule, x, eps, here, there)
    return x
