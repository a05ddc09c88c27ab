"""What one iteration did, for snapshots, curves and benchmarks: detached from the graph, first view only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamerxl.config import Variant
from dreamerxl.training.draw import Draw


@dataclass(frozen=True, eq=False)
class SideReport:
    """One side's iteration. Tensors hold the first view of the batch, numbers the whole batch.

    The gradient is that of the loss for the guided image: the colour, or in a depth iteration the expected depth.
    """

    variant: Variant
    render: Tensor  # [1, H, W, 3] in 0..1
    depth: Tensor  # [1, H, W] expected depth
    disparity: Tensor  # [1, H, W] in 0..1, the depth as a picture
    x0_hat: Tensor  # [1, C, h, w] latents of the pseudo ground truth; Guidance.decode shows them
    gradient: Tensor  # [1, 3, H, W], or [1, 1, H, W] of the depth, before clipping
    clipped: Tensor  # the same after clipping
    grad_norm: float
    clipped_norm: float
    clipped_share: float  # of pixels whose gradient the clip changed
    latent_norm: float  # norm of omega(t) (eps_t - eps_reference)
    count: int  # Gaussians after the iteration
    t: int
    s: int
    mu: int


@dataclass(frozen=True, eq=False)
class StepReport:
    """One iteration of all sides."""

    iteration: int  # counted from 0
    draw: Draw
    sides: tuple[SideReport, ...]
    evaluations: int  # rows that the network evaluated
    calls: int  # network calls that they took
    timing_ms: dict[str, float]  # render, encode, predict, backward, update
