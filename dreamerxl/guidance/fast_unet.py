"""A diffusers UNet made fast on CUDA, in place: the same weights and the same function, channels last throughout.

Residual blocks and the norms around the transformers use the fused group norm; biases and time embeddings ride on its
passes; 1x1 convolutions are matrix products over pixels; q, k and v are one product. Transformer blocks, of which SDXL
has two kinds seventy times over, are compiled once a kind and size. Gradients are not supported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerxl.guidance.encoder import NormSilu
from dreamerxl.guidance.group_norm import add_shifted

RECOMPILATIONS = 64  # kinds of block times numbers of rows; PyTorch gives up after 8


def accelerate(unet: Any) -> None:
    """Replace the forwards of the UNet's residual blocks and transformers. Weights are read now: merge LoRA files before."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    unet.to(memory_format=torch.channels_last)
    _fuse_projections(unet)
    part: Any
    for part in unet.modules():
        if isinstance(part, ResnetBlock2D) and _is_plain(part):
            part.forward = Residual(part)  # pyright: ignore[reportAttributeAccessIssue]
        elif isinstance(part, Transformer2DModel) and part.is_input_continuous:
            part.forward = Transformer(part)  # pyright: ignore[reportAttributeAccessIssue]
    last = NormSilu(unet.conv_norm_out)
    unet.conv_norm_out.forward = lambda x: last.forward(x)[0]
    unet.conv_act = nn.Identity()
    unet.requires_grad_(False)


def _fuse_projections(unet: Any) -> None:
    """One product for q, k and v (or for k and v of the text); the single ones, now a second copy, go."""
    from diffusers.models.attention_processor import Attention

    unet.fuse_qkv_projections()
    for part in unet.modules():
        if isinstance(part, Attention):
            for name in ("to_k", "to_v") if part.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(part, name)


class Compiled:
    """An evaluation of the UNet whose transformer blocks are compiled, once for each kind of block and number of rows.

    The first call with a new number does it. Where the compiler fails, as it does without a C compiler on the machine,
    the blocks go on as they are.
    """

    def __init__(self, unet: Any, evaluate: Callable[..., Tensor], **options: Any) -> None:
        """options: of torch.compile."""
        from diffusers.models.attention import BasicTransformerBlock
        from torch._dynamo.exc import TorchDynamoException  # the compiler takes a second to import

        self.evaluate, self.failure = evaluate, TorchDynamoException
        self.blocks = [part for part in unet.modules() if isinstance(part, BasicTransformerBlock)]
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
        for block in self.blocks:
            block.compile(fullgraph=True, dynamic=False, **options)

    def __call__(self, *rows: Tensor) -> Tensor:
        try:
            return self.evaluate(*rows)
        except self.failure as error:
            reason = str(error).strip().splitlines()[0][:200]
            warnings.warn(f"The UNet runs uncompiled, about a tenth slower: {reason}", stacklevel=2)
            for block in self.blocks:
                block._compiled_call_impl = None
            return self.evaluate(*rows)


def _is_plain(block: Any) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and block.output_scale_factor == 1
        and isinstance(block.nonlinearity, nn.SiLU)
    )


class Residual:
    """ResnetBlock2D.forward: x [R, C, h, w] and the time embedding [R, E]."""

    def __init__(self, block: Any) -> None:
        self.block, self.norm1, self.norm2 = block, NormSilu(block.norm1), NormSilu(block.norm2)
        shortcut = block.conv_shortcut
        self.shortcut = None if shortcut is None else shortcut.weight[:, :, 0, 0].contiguous()
        self.bias = block.conv2.bias if shortcut is None else block.conv2.bias + shortcut.bias

    def __call__(self, x: Tensor, temb: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        block = self.block
        shift = block.conv1.bias
        if temb is not None and block.time_emb_proj is not None:
            shift = shift + block.time_emb_proj(temb if block.skip_time_act else F.silu(temb))
        h = F.conv2d(self.norm1.forward(x)[0], block.conv1.weight, padding=1)
        h = F.conv2d(self.norm2.forward(h, shift)[0], block.conv2.weight, padding=1)
        if self.shortcut is None:
            return add_shifted(x, h, self.bias)
        skip = F.linear(x.permute(0, 2, 3, 1), self.shortcut, self.bias).permute(0, 3, 1, 2)
        return skip.add_(h)


class Transformer:
    """Transformer2DModel.forward over images: norm, projection, blocks, projection, residual."""

    def __init__(self, model: Any) -> None:
        self.blocks, self.norm = model.transformer_blocks, NormSilu(model.norm, silu=False)
        self.ins, self.outs = (_matrix(part) for part in (model.proj_in, model.proj_out))

    def __call__(self, x: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any) -> tuple[Tensor]:
        h = self.norm.forward(x)[0].permute(0, 2, 3, 1)  # [R, h, w, C]
        size, h = h.shape, F.linear(h.flatten(1, 2), *self.ins)
        for block in self.blocks:
            h = block(h, encoder_hidden_states=encoder_hidden_states)
        return (F.linear(h, *self.outs).unflatten(1, size[1:3]).permute(0, 3, 1, 2) + x,)


def _matrix(projection: Any) -> tuple[Tensor, Tensor]:
    return projection.weight.flatten(1), projection.bias
