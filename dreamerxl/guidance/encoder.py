"""A frozen VAE encoder as a chain of layers that go forward and, for the picture's gradient alone, backward.

    images     [B, 3, H, W] in -1..1, in the VAE's type
    mean       [B, C, h, w] of the posterior
Weights carry no gradient, so a convolution keeps nothing and a residual block keeps its input and its middle: a third of
what autograd holds. Memory stays channels last throughout. Each layer is ``forward(x) -> y, kept`` and
``backward(dy, kept) -> dx``; biases ride on the pass that reads a convolution's output next.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerxl.guidance.attention import wide_attention, wide_attention_backward
from dreamerxl.guidance.group_norm import Affine, add_shifted, group_norm, group_norm_backward


class Layer(Protocol):
    """One link of the chain."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]: ...
    def backward(self, dy: Tensor, kept: Any) -> Tensor: ...


class FrozenEncoder:
    """The encoder of an AutoencoderKL with its quant_conv: images to the posterior's mean, with gradient."""

    def __init__(self, vae: Any) -> None:
        encoder = vae.encoder
        self.layers: list[Layer] = [Convolution(encoder.conv_in)]
        for block in encoder.down_blocks:
            self.layers += [Residual(resnet) for resnet in block.resnets]
            self.layers += [Halving(down.conv) for down in block.downsamplers or ()]
        mid = encoder.mid_block
        self.layers.append(Residual(mid.resnets[0]))
        for attention, resnet in zip(mid.attentions, mid.resnets[1:], strict=True):
            self.layers += [WideAttention(attention)] if attention is not None else []
            self.layers.append(Residual(resnet))
        self.layers += [NormSilu(encoder.conv_norm_out), Convolution(encoder.conv_out)]
        if vae.quant_conv is not None:
            self.layers.append(Convolution(vae.quant_conv))

    def __call__(self, images: Tensor, at_once: int | None = None) -> Tensor:
        """mean [B, C, h, w]. More images than ``at_once`` are encoded in turns, and once again for the backward."""
        return _Encode.apply(images, self, at_once or len(images))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        """Both halves of the moments, and what each layer keeps."""
        kept, x = [], x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x, more = layer.forward(x)
            kept.append(more)
        return x, kept

    def backward(self, dy: Tensor, kept: list[Any]) -> Tensor:
        """The gradient for the images; empties ``kept`` on the way."""
        dy = dy.contiguous(memory_format=torch.channels_last)
        for layer in reversed(self.layers):
            dy = layer.backward(dy, kept.pop())
        return dy


class _Encode(torch.autograd.Function):
    """The chain as one step of autograd, which hands it the gradient for the mean alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, encoder: FrozenEncoder, at_once: int) -> Tensor:
        ctx.encoder, ctx.at_once, ctx.kept = encoder, at_once, None
        if len(images) <= at_once:
            moments, ctx.kept = encoder.forward(images)
        else:
            ctx.images = images
            moments = torch.cat([encoder.forward(part)[0] for part in images.split(at_once)])
        return moments.chunk(2, 1)[0].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        encoder, d_moments = ctx.encoder, torch.cat([gradients[0], torch.zeros_like(gradients[0])], 1)
        if ctx.kept is not None:
            return encoder.backward(d_moments, ctx.kept), None, None
        turns = zip(ctx.images.split(ctx.at_once), d_moments.split(ctx.at_once), strict=True)
        return torch.cat([encoder.backward(part, encoder.forward(images)[1]) for images, part in turns]), None, None


def is_supported(vae: Any) -> bool:
    """Whether the chain knows every part of the encoder."""
    encoder = vae.encoder
    return (
        all(type(block).__name__ == "DownEncoderBlock2D" for block in encoder.down_blocks)
        and all(attention is None or attention.heads == 1 for attention in encoder.mid_block.attentions)
        and isinstance(encoder.conv_act, nn.SiLU)
    )


def _weight(conv: nn.Conv2d) -> Tensor:
    return conv.weight.detach().contiguous(memory_format=torch.channels_last)


def _turned(weight: Tensor) -> Tensor:
    """The weights with which a convolution of stride 1 carries a gradient back; as fast as forward, and without the
    copy of an input that PyTorch's own function makes."""
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


class Convolution:
    """A convolution of stride 1 with its bias."""

    def __init__(self, conv: Any) -> None:
        self.weight, self.bias, self.padding = _weight(conv), conv.bias, conv.padding[0]
        self.turned = _turned(self.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding), None

    def backward(self, dy: Tensor, kept: None) -> Tensor:
        return F.conv2d(dy, self.turned, padding=self.weight.shape[2] - 1 - self.padding)


class Halving:
    """The encoder's downsampling: a column and a row of zeros on the right and below, then stride 2."""

    def __init__(self, conv: Any) -> None:
        self.weight, self.bias = _weight(conv), conv.bias

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, stride=2), None

    def backward(self, dy: Tensor, kept: None) -> Tensor:
        dx = F.conv_transpose2d(dy, self.weight, stride=2)
        return dx[:, :, :-1, :-1].contiguous(memory_format=torch.channels_last)


class NormSilu:
    """Group norm and SiLU."""

    def __init__(self, norm: nn.GroupNorm, silu: bool = True) -> None:
        self.weight, self.bias, self.groups, self.eps, self.silu = norm.weight, norm.bias, norm.num_groups, norm.eps, silu

    def forward(self, x: Tensor, shift: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Affine]]:
        y, affine = group_norm(x, self.weight, self.bias, self.groups, self.eps, self.silu, shift)
        return y, (x, affine)

    def backward(self, dy: Tensor, kept: tuple[Tensor, Affine], add: Tensor | None = None) -> Tensor:
        x, affine = kept
        return group_norm_backward(dy, x, affine, self.weight, self.bias, self.groups, self.silu, add)


class Residual:
    """Norm, SiLU, convolution, twice, around a shortcut: the identity or a 1x1 convolution."""

    def __init__(self, block: Any) -> None:
        self.norm1, self.norm2 = NormSilu(block.norm1), NormSilu(block.norm2)
        self.weight1, self.weight2 = _weight(block.conv1), _weight(block.conv2)
        self.turned1, self.turned2 = _turned(self.weight1), _turned(self.weight2)
        self.bias1, self.bias2, shortcut = block.conv1.bias, block.conv2.bias.detach(), block.conv_shortcut
        self.shortcut: Tensor | None = None
        if shortcut is not None:
            self.shortcut = shortcut.weight.detach()[:, :, 0, 0].contiguous()
            self.bias2 = self.bias2 + shortcut.bias.detach()

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        a, kept1 = self.norm1.forward(x)
        middle = F.conv2d(a, self.weight1, padding=1)
        a, kept2 = self.norm2.forward(middle, self.bias1)
        y = F.conv2d(a, self.weight2, padding=1)
        return add_shifted(x if self.shortcut is None else _pointwise(x, self.shortcut), y, self.bias2), (kept1, kept2)

    def backward(self, dy: Tensor, kept: Any) -> Tensor:
        kept1, kept2 = kept
        dm = self.norm2.backward(F.conv2d(dy, self.turned2, padding=1), kept2)
        around = dy if self.shortcut is None else _pointwise(dy, self.shortcut.t())
        return self.norm1.backward(F.conv2d(dm, self.turned1, padding=1), kept1, add=around)


class WideAttention:
    """The mid block's attention: one head as wide as the image has channels, over all pixels, on a residual."""

    def __init__(self, attention: Any) -> None:
        self.norm = NormSilu(attention.group_norm, silu=False)
        projections = (attention.to_q, attention.to_k, attention.to_v)
        self.qkv = torch.cat([part.weight.detach() for part in projections])
        self.qkv_bias = torch.cat([part.bias.detach() for part in projections])
        self.out, self.out_bias = attention.to_out[0].weight.detach(), attention.to_out[0].bias.detach()

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        y, kept = self.norm.forward(x)
        q, k, v = F.linear(_tokens(y), self.qkv, self.qkv_bias).chunk(3, 2)
        o = wide_attention(q, k, v)
        return add_shifted(x, _image(F.linear(o, self.out), x), self.out_bias), (kept, q, k, v, o)

    def backward(self, dy: Tensor, kept: Any) -> Tensor:
        norm, q, k, v, o = kept
        d_o = _tokens(dy) @ self.out
        d_qkv = torch.cat(wide_attention_backward(d_o, q, k, v, o), 2)
        return self.norm.backward(_image(d_qkv @ self.qkv, dy), norm, add=dy)


def _tokens(x: Tensor) -> Tensor:
    """Channels-last [B, C, H, W] as tokens [B, HW, C], without a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens [B, HW, C] as an image of the size of ``like``, channels last, without a copy."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product over pixels; weight [out, in]."""
    return _image(F.linear(_tokens(x), weight), x)
