"""Growing and thinning a scene while it trains: adaptive density control of 3D Gaussian splatting (Kerbl et al., 2023).

gsplat's DefaultStrategy decides and its ops rebuild parameters and optimiser states. Every view of a batch counts:
the statistics are the image-plane gradient's norm, in half picture widths and times the number of views, averaged
over all (view, Gaussian) pairs in which the Gaussian is visible.

    iteration in (start, stop), a multiple of every: Gaussians whose average exceeds grad_threshold are duplicated
    (small) or split in two (large); those below prune_opacity, and after the first reset those that have grown too
    large, are removed
    iteration in (0, stop), a multiple of reset_every: opacities fall to at most twice prune_opacity
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from dreamerxl.config import Densification
from dreamerxl.gaussians.scene import Params

NEVER = sys.maxsize


class Densifier:
    """Adaptive density control of one scene; its running statistics are ``state``.

    Call ``before_backward`` and, after the optimisers' step, ``after_step``, with the rasterizer's info. Both change
    ``params`` and ``optimizers`` in place (the tensors are replaced). One thread at a time.
    """

    def __init__(self, settings: Densification, scene_scale: float, seed: int) -> None:
        """scene_scale: radius of the scene in world units; sizes are judged relative to it. seed: of the splits."""
        self.settings, self.seed = settings, seed
        self.strategy = _strategy(settings)
        self.state: dict[str, Any] = self.strategy.initialize_state(scene_scale=scene_scale)

    def before_backward(self, params: Params, optimizers: dict[str, Optimizer], iteration: int, info: dict[str, Any]) -> None:
        """Keeps the gradient that the statistics need."""
        if self._active(iteration):
            self.strategy.step_pre_backward(params, optimizers, self.state, iteration, info)

    def after_step(self, params: Params, optimizers: dict[str, Optimizer], iteration: int, info: dict[str, Any]) -> bool:
        """Updates the statistics and, when due, the scene. True if Gaussians were added, removed or reset."""
        if not self._active(iteration) or info["means2d"].grad is None:
            return False
        settings, device = self.settings, params["means"].device
        seed = int(np.random.SeedSequence((self.seed, iteration)).generate_state(1)[0])
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # gsplat splits with the global generator
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            self.strategy.step_post_backward(params, optimizers, self.state, iteration, info)
        refined = iteration > settings.start and iteration % settings.every == 0
        reset = settings.reset_every > 0 and iteration > 0 and iteration % settings.reset_every == 0
        if reset:
            # gsplat 1.5.3 means to do this itself, but its condition `... == 0 & step > 0` is never true.
            from gsplat.strategy.ops import reset_opa

            reset_opa(params, optimizers, self.state, value=min(max(2 * settings.prune_opacity, 0.01), 0.99))
        return refined or reset

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics that exist so far, for a checkpoint."""
        return {name: value.detach().clone() for name, value in self.state.items() if isinstance(value, Tensor)}

    def load_state_dict(self, tensors: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """The statistics of ``state_dict``; what is missing starts anew."""
        for name in ("grad2d", "count"):
            self.state[name] = tensors[name].to(device).clone() if name in tensors else None

    def _active(self, iteration: int) -> bool:
        return self.settings.enabled and iteration < self.settings.stop


def _strategy(settings: Densification) -> Any:
    from gsplat.strategy import DefaultStrategy

    class Capped(DefaultStrategy):
        """gsplat's strategy, growing the steepest Gaussians first and none beyond max_count."""

        def _grow_gs(self, params: Any, optimizers: Any, state: Any, step: int) -> tuple[int, int]:
            room = settings.max_count - len(params["means"])  # a duplicate and a split both add one
            steepness = state["grad2d"] / state["count"].clamp_min(1)
            if int((steepness > self.grow_grad2d).sum()) > room:
                chosen = steepness.argsort(descending=True, stable=True)[: max(room, 0)]
                kept = torch.zeros_like(state["grad2d"])
                kept[chosen] = state["grad2d"][chosen]
                state["grad2d"] = kept
            return super()._grow_gs(params, optimizers, state, step)

    return Capped(
        prune_opa=settings.prune_opacity,
        grow_grad2d=settings.grad_threshold,
        refine_start_iter=settings.start,
        refine_stop_iter=settings.stop,
        refine_every=settings.every,
        reset_every=settings.reset_every or NEVER,
    )
