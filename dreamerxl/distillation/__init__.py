"""Distillation methods by name: each a generator (x_0, steps, noise, schedule, variant) -> Score, one file a method.

    x_0, noise  [B, C, h, w]  latents of the render, and one draw shared by the variants of a run
    steps       t, s, mu and the inversion's grid (timesteps.plan_steps)
A method yields tuples of queries and is sent tuples of predictions; the caller holds ``torch.no_grad``.
"""

from collections.abc import Callable

from torch import Tensor

from dreamerxl.config import Method, Variant
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation.csd import csd
from dreamerxl.distillation.ism import ism
from dreamerxl.distillation.queries import Distillation
from dreamerxl.distillation.sds import sds
from dreamerxl.distillation.timesteps import Steps
from dreamerxl.distillation.tsm import tsm
from dreamerxl.distillation.vsd import vsd

METHODS: dict[Method, Callable[[Tensor, Steps, Tensor, Schedule, Variant], Distillation]] = {
    "sds": sds,
    "csd": csd,
    "ism": ism,
    "tsm": tsm,
    "vsd": vsd,
}
