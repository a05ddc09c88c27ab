"""One side of a comparison: its variant, Gaussians, optimisers and densification."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam, Optimizer

from dreamerxl.config import Optimization, Settings, Variant
from dreamerxl.errors import RunFolderError
from dreamerxl.gaussians.densify import Densifier
from dreamerxl.gaussians.initialize import initialize
from dreamerxl.gaussians.ply import Points
from dreamerxl.gaussians.scene import Params, clamp_colors_
from dreamerxl.training.draw import generator_for

SCENE_SCALE = 1.0  # the object fits in the unit ball
INITIAL = 2**32  # stands for the iteration in the seed of the first scene, beyond every iteration
EPS = 1e-15  # 3DGS's: gradients of single Gaussians lie far below Adam's usual 1e-8


@dataclass
class Side:
    """State that evolves: the trainer's thread alone touches it."""

    variant: Variant
    params: Params
    optimizers: dict[str, Optimizer]
    densifier: Densifier | None


def make_side(settings: Settings, variant: Variant, device: torch.device, cloud: Points | None = None, particle: int = 0) -> Side:
    """A side at iteration 0. Every side of a run starts from the same Gaussians, except that each of VSD's particles after
    the first has a draw of its own; ``cloud`` is what was made from a text."""
    params = initialize(settings.initialization, generator_for(settings.seed, INITIAL + 2 * particle), device, cloud)
    density = settings.densification
    densifier = Densifier(density, SCENE_SCALE, settings.seed) if density.enabled else None
    return Side(variant, params, make_optimizers(params, settings.optimization), densifier)


def make_optimizers(params: Params, settings: Optimization) -> dict[str, Optimizer]:
    """One Adam for each parameter, as gsplat's densification wants them; on CUDA in one launch each."""
    betas = settings.beta1, settings.beta2
    rates = learning_rates(settings, 0.0)
    return {
        name: Adam([param], lr=rates[name], betas=betas, eps=EPS, fused=param.is_cuda or None) for name, param in params.items()
    }


def learning_rates(settings: Optimization, progress: float) -> dict[str, float]:
    """Learning rates at a progress of 0..1: positions and colours decay exponentially, the others stay."""
    return {
        "means": decayed(settings.lr_means, settings.lr_means_final, progress),
        "sh0": decayed(settings.lr_sh0, settings.lr_sh0_final, progress),
        "opacities": settings.lr_opacities,
        "scales": settings.lr_scales,
        "quats": settings.lr_quats,
    }


def decayed(start: float, end: float, progress: float) -> float:
    """start^(1 - p) end^p; a straight line where one of them is 0, which no exponential reaches."""
    if start > 0 and end > 0:
        return start * (end / start) ** progress
    return start + (end - start) * progress


def update(side: Side, settings: Optimization, progress: float, held: Collection[str] = ()) -> None:
    """One Adam step of every parameter that has a gradient, but for those held; colours are projected back into 0..1."""
    for name, rate in learning_rates(settings, progress).items():
        optimizer = side.optimizers[name]
        optimizer.param_groups[0]["lr"] = rate
        if name not in held:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    clamp_colors_(side.params)


def side_tensors(side: Side) -> dict[str, Tensor]:
    """Everything of a side that a checkpoint needs, detached: parameters, Adam's state, densification's statistics."""
    tensors: dict[str, Tensor] = {}
    for name, param in side.params.items():
        tensors[f"params.{name}"] = param.detach().clone()
        for key, value in side.optimizers[name].state.get(param, {}).items():
            tensors[f"adam.{name}.{key}"] = value.detach().clone()
    if side.densifier is not None:
        tensors |= {f"density.{name}": value for name, value in side.densifier.state_dict().items()}
    return tensors


def restore_side(side: Side, tensors: dict[str, Tensor], settings: Optimization, device: torch.device) -> None:
    """Put back what ``side_tensors`` gave; the number of Gaussians may differ from the side's."""
    missing = [name for name in side.params if f"params.{name}" not in tensors]
    if missing:
        raise RunFolderError(f"The checkpoint lacks the parameters {', '.join(missing)}; it was written by another program.")
    side.params = {name: Parameter(tensors[f"params.{name}"].to(device).clone()) for name in side.params}
    side.optimizers = make_optimizers(side.params, settings)
    for name, param in side.params.items():
        prefix = f"adam.{name}."
        state: dict[str, Any] = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            moments = {key: value.to(device).clone() for key, value in state.items() if key != "step"}
            counter = device if side.optimizers[name].defaults["fused"] else "cpu"
            side.optimizers[name].state[param] = {"step": state["step"].to(counter).clone(), **moments}
    if side.densifier is not None:
        statistics = {name.removeprefix("density."): value for name, value in tensors.items() if name.startswith("density.")}
        side.densifier.load_state_dict(statistics, device)
