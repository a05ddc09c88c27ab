"""LPIPS (Zhang et al., 2018) with VGG16 or AlexNet, and A-LPIPS: its mean over neighbouring views of a turn (Table 1).

    images   [N, 3, H, W] in 0..1
    LPIPS    sum over five layers of the mean over pixels of w . (f_a - f_b)^2, features f of unit length a pixel
Version 0.1 of the reference code, whose numbers these are (tests/test_metrics.py). The backbones are written out, so that
torchvision is not needed. Weights are one .safetensors file a network: convolutions in order, then five 1x1 heads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamerxl.errors import WeightsError
from dreamerxl.guidance.hub import Say, fetch, silent

Net = Literal["vgg", "alex"]
REPOSITORY = "achiru/DiffSynth-Studio-ImageMetrics"  # LPIPS 0.1 as .safetensors, kept there by an individual
FILES: dict[Net, str] = {"vgg": "LPIPS/vgg.safetensors", "alex": "LPIPS/alexnet.safetensors"}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the ImageNet statistics for pictures in -1..1
TINY = 1e-10
AT_ONCE = 8  # pairs in a call


class Lpips(nn.Module):
    """Five slices of a backbone and the five heads on them."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        slices = vgg16() if net == "vgg" else alexnet()
        self.slices = nn.ModuleList(slices)
        widths = [convolutions(piece)[-1].out_channels for piece in slices]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [N] of pictures a and b [N, 3, H, W] in 0..1."""
        shift, scale = (a.new_tensor(channel)[:, None, None] for channel in (SHIFT, SCALE))
        x, y = ((2 * images - 1 - shift) / scale for images in (a, b))
        total = torch.zeros(len(a), device=a.device)
        for piece, head in zip(self.slices, self.heads, strict=True):
            x, y = piece(x), piece(y)
            total = total + head((_unit(x) - _unit(y)).square()).mean((1, 2, 3))
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + TINY)


def vgg16() -> list[nn.Sequential]:
    """VGG16's features, cut after relu1_2, 2_2, 3_3, 4_3 and 5_3."""
    slices, width = [], 3
    for index, (out, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        parts: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for _ in range(count):
            parts += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
        slices.append(nn.Sequential(*parts))
    return slices


def alexnet() -> list[nn.Sequential]:
    """AlexNet's features (the one of torchvision), cut after each ReLU."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def convolutions(part: nn.Module) -> list[nn.Conv2d]:
    """Every convolution of a network, in order."""
    return [piece for piece in part.modules() if isinstance(piece, nn.Conv2d)]


def read_lpips(path: Path, net: Net) -> Lpips:
    """LPIPS from a .safetensors file: the state of the ``lpips`` package's module, or of another that keeps its order.

    Names differ between programs; what is a convolution or a head, and which, is told by shape and order, and everything
    must fit. Raises WeightsError with a sentence.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"The LPIPS weights {path.name} cannot be read: {error}.") from None
    names = sorted((name for name in state if not name.startswith("lins.")), key=_natural)  # 'lins' repeats 'lin0' to 'lin4'
    heads = [state[name] for name in names if state[name].ndim == 4 and state[name].shape[0] == 1 and state[name].shape[1] > 3]
    kernels = [name for name in names if state[name].ndim == 4 and state[name].shape[0] > 1]
    model = Lpips(net)
    places = convolutions(model.slices)
    if len(kernels) != len(places) or len(heads) != len(model.heads):
        raise WeightsError(
            f"The LPIPS weights {path.name} have {len(kernels)} convolutions and {len(heads)} heads; "
            f"{net} has {len(places)} and {len(model.heads)}."
        )
    for place, name in zip(places, kernels, strict=True):
        bias = state.get(re.sub(r"weight$", "bias", name))
        if place.bias is None or bias is None or state[name].shape != place.weight.shape or bias.shape != place.bias.shape:
            raise WeightsError(
                f"The LPIPS weights {path.name} do not fit {net}: {name} is {tuple(state[name].shape)}, "
                f"{tuple(place.weight.shape)} is wanted, with a bias."
            )
        place.weight.copy_(state[name])
        place.bias.copy_(bias)
    for head, weight in zip(convolutions(model.heads), heads, strict=True):
        if weight.shape != head.weight.shape:
            raise WeightsError(f"The LPIPS weights {path.name} have a head of {weight.shape[1]} channels that {net} has not.")
        head.weight.copy_(weight)
    return model


def load_lpips(net: Net, folder: Path | None = None, say: Say = silent, *, download: bool = True) -> Lpips:
    """LPIPS from a folder with vgg.safetensors and alex.safetensors, or from the hub. Raises WeightsError with a sentence."""
    if folder is not None:
        return read_lpips(folder / f"{net}.safetensors", net)
    name = FILES[net]
    otherwise = f", or name a folder with {net}.safetensors (--lpips)"
    place = fetch(
        REPOSITORY, lambda files: [name] if name in files else [], say, download=download, landmark=name, otherwise=otherwise
    )
    return read_lpips(place / name, net)


@torch.no_grad()
def neighbour_distance(model: Lpips, views: Tensor) -> float:
    """A-LPIPS: the mean distance of each of V views [V, 3, H, W] in 0..1 of a turn to the next, the last to the first."""
    pairs = views, views.roll(-1, 0)
    parts = [model(*(side[start : start + AT_ONCE] for side in pairs)) for start in range(0, len(views), AT_ONCE)]
    return torch.cat(parts).mean().item()


def _natural(name: str) -> list[str]:
    """Sorts 'features.10' behind 'features.2'."""
    return [part.zfill(6) for part in re.split(r"(\d+)", name)]
