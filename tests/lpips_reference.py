"""What the ``lpips`` package says with weights that can be drawn again.

    python tests/lpips_reference.py > tests/data/lpips.json

It needs lpips and torchvision, which are no part of this project's environments: a torchvision beside a torch of another
build does not load, and takes transformers with it. Install both into a folder of their own and name it in PYTHONPATH.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

SIZES = ((64, 64), (96, 80))


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 11) -> dict[str, Tensor]:
    """Weights of those shapes, in order of their names; heads are positive, as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        values = torch.randn(shape, generator=generator)
        if name.startswith("lin"):
            state[name] = values.abs() / shape[1]
        elif len(shape) == 4:
            state[name] = values * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        else:
            state[name] = 0.1 * values
    return state


def picture_pairs(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two batches of three pictures in 0..1."""
    generator = torch.Generator().manual_seed(size[1])
    a = torch.rand(3, 3, *size, generator=generator)
    return a, (a + 0.3 * torch.rand(3, 3, *size, generator=generator)).clamp(0, 1)


def package_model(net: str) -> tuple[Any, dict[str, Tensor]]:
    """The package's LPIPS with those weights, and the weights, without the second names of its heads."""
    _let_torchvision_in()
    import lpips

    model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if value.ndim in (1, 4)}
    state = random_state({name: shape for name, shape in own.items() if not name.startswith(("lins.", "scaling_layer"))})
    model.load_state_dict(state, strict=False)
    return model, state


@functools.cache
def _let_torchvision_in() -> Any:
    """torchvision declares what its compiled half brings; without that half the names must be there already."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # what it defines lasts as long as it does


if __name__ == "__main__":
    found = {}
    for net in ("vgg", "alex"):
        model, state = package_model(net)
        with torch.no_grad():
            distances = [model(*picture_pairs(size), normalize=True).flatten().tolist() for size in SIZES]
        found[net] = {"shapes": {name: list(value.shape) for name, value in state.items()}, "distances": distances}
    print(json.dumps(found, indent=1))
