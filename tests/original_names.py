"""Weights of diffusers' models under the names of the original code (CompVis, Stability AI, OpenCLIP), for single files.

Written from the original modules: input_blocks, middle_block and output_blocks are counted through; a level's last input
block is its downsampler, and its upsampler is the last module of its last output block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_EDGES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def single_file(pipeline: Any) -> dict[str, Tensor]:
    """Everything of a StableDiffusion(XL)Pipeline in one state dict; which layout follows from its text encoders."""
    weights = {f"model.diffusion_model.{name}": value for name, value in unet(pipeline.unet)}
    weights |= {f"first_stage_model.{name}": value for name, value in vae(pipeline.vae)}
    first = pipeline.text_encoder
    if hasattr(pipeline, "text_encoder_2"):
        weights |= {f"conditioner.embedders.0.transformer.text_model.{n}": v for n, v in text_weights(first)}
        weights |= {f"conditioner.embedders.1.model.{n}": v for n, v in open_clip(pipeline.text_encoder_2)}
    elif first.config.hidden_act == "quick_gelu":
        weights |= {f"cond_stage_model.transformer.text_model.{n}": v for n, v in text_weights(first)}
    else:
        weights |= {f"cond_stage_model.model.{n}": v for n, v in open_clip(first)}
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}


def unet(model: Any) -> Iterator[tuple[str, Tensor]]:
    places = dict(UNET_EDGES)
    count, layers, levels = 1, model.config.layers_per_block, len(model.down_blocks)
    for level in range(levels):
        for layer in range(layers):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{count}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{count}.1"
            count += 1
        if level < levels - 1:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    for old, new in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2)):
        places[f"mid_block.{old}"] = f"middle_block.{new}"
    count = 0
    for level, block in enumerate(model.up_blocks):
        for layer in range(layers + 1):
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{count}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{count}.1"
            if level < levels - 1 and layer == layers:
                at = 2 if getattr(block, "attentions", None) else 1
                places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{count}.{at}.conv"
            count += 1
    for name, value in model.state_dict().items():
        old = max((place for place in places if name.startswith(f"{place}.")), key=len)
        rest = name[len(old) + 1 :]
        if ".resnets." in f".{old}.":
            layer, _, kind = rest.partition(".")
            rest = f"{RESNET[layer]}.{kind}"
        yield f"{places[old]}.{rest}", value


def vae(model: Any) -> Iterator[tuple[str, Tensor]]:
    levels = len(model.config.block_out_channels)
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for name, value in model.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for level in range(levels):
            new = new.replace(f"encoder.down_blocks.{level}.resnets.", f"encoder.down.{level}.block.")
            new = new.replace(f"encoder.down_blocks.{level}.downsamplers.0.", f"encoder.down.{level}.downsample.")
            new = new.replace(f"decoder.up_blocks.{level}.resnets.", f"decoder.up.{levels - 1 - level}.block.")
            new = new.replace(f"decoder.up_blocks.{level}.upsamplers.0.", f"decoder.up.{levels - 1 - level}.upsample.")
        new = new.replace("mid_block.resnets.0.", "mid.block_1.").replace("mid_block.resnets.1.", "mid.block_2.")
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.")
            for theirs, original in attention.items():
                new = new.replace(f"attn_1.{theirs}.", f"attn_1.{original}.")
            value = value[:, :, None, None] if value.dim() == 2 else value  # 1 x 1 convolutions there
        yield new, value


def text_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        yield name.removeprefix("text_model."), value


def open_clip(model: Any) -> Iterator[tuple[str, Tensor]]:
    weights = dict(text_weights(model))
    yield "token_embedding.weight", weights["embeddings.token_embedding.weight"]
    yield "positional_embedding", weights["embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        yield f"ln_final.{kind}", weights[f"final_layer_norm.{kind}"]
    width = model.config.hidden_size
    projection = weights.get("text_projection.weight", torch.eye(width))
    yield "text_projection", projection.T
    for layer in range(model.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            yield f"{new}attn.in_proj_{kind}", torch.cat([weights[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"])
            yield f"{new}attn.out_proj.{kind}", weights[f"{old}self_attn.out_proj.{kind}"]
            for theirs, original in (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                yield f"{new}{original}.{kind}", weights[f"{old}{theirs}.{kind}"]
