"""Training of the embedded model on a GPU: first the VAE, then the UNet together with the text encoder.

On a GPU every step is one captured CUDA graph that draws its own batch, so that the CPU only replays it. The schedule counts
steps; a time limit, where one is given, shortens it without leaving the learning rate high. Both stages start from an
earlier folder when one is given, which is how a long training is chained from short ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from dreamerxl.miniature.architecture import Networks, load_networks, make_networks, make_scheduler, save_networks
from dreamerxl.miniature.data import Renders, draw
from dreamerxl.miniature.language import COLORS, MAX_TOKENS, NOUNS, PHRASES, PROMPTING, VIEWS, describe

ROWS_PER_KIND = 1 + len(VIEWS)  # prompts of one object and colour: without a view, and for each view


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on besides the code."""

    seed: int = 0
    renders: int = 8000  # of each object
    held_out: int = 64  # of each object, from another seed
    depth_share: float = 0.15  # of a batch: depth pictures in place of colour
    vae_steps: int = 12_000
    vae_batch: int = 64
    vae_lr: float = 1.5e-3
    kl: float = 1e-6
    unet_steps: int = 40_000
    unet_batch: int = 256
    unet_lr: float = 8e-4
    ema: float = 0.9995
    drop_prompt: float = 0.1
    drop_view: float = 0.12
    drop_color: float = 0.12


@dataclass(frozen=True)
class Limits:
    """Longest time for each stage, in seconds; infinite by default."""

    vae: float = math.inf
    unet: float = math.inf


UNLIMITED = Limits()


def train(
    recipe: Recipe,
    out: Path,
    start: Path | None = None,
    limits: Limits = UNLIMITED,
    train_vae_too: bool = True,
    device: str = "cuda",
) -> None:
    """Draw the data, train both stages and write the folder. Prints what a log should hold."""
    clock = time.time()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    renders = draw(recipe.renders, recipe.seed, device).to(device)
    held_out = draw(recipe.held_out, recipe.seed + 1, device).to(device)
    print(f"data: {len(renders):,} pictures and {len(held_out):,} held out, {time.time() - clock:.0f} s", flush=True)
    torch.manual_seed(recipe.seed)
    networks = load_networks(start) if start else make_networks(recipe.seed)
    for network in (networks.vae, networks.text_encoder, networks.unet):
        network.to(device)
    if train_vae_too:
        train_vae(networks, renders, recipe, limits.vae)
        save_networks(networks, out)
    print(f"vae: held-out PSNR {psnr(networks, held_out):.2f} dB, {time.time() - clock:.0f} s", flush=True)
    train_unet(networks, renders, recipe, limits.unet)
    print(f"unet: held-out loss {held_out_loss(networks, held_out, recipe):.4f}, {time.time() - clock:.0f} s", flush=True)
    save_networks(networks, out)


def train_vae(networks: Networks, renders: Renders, recipe: Recipe, limit: float) -> None:
    """Reconstruction in L1, L2 and image gradients, with a light Kullback-Leibler term; sets the scaling factor."""
    vae = networks.vae.train().requires_grad_(True)
    depth_count, device = round(recipe.depth_share * recipe.vae_batch), renders.images.device

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        e = y.float() - x
        edges = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
        return e.abs().mean() + 2 * (e**2).mean() + edges + recipe.kl * posterior.kl().float().mean()

    compiled = torch.compile(loss, disable=device.type == "cpu")

    def batch_loss() -> Tensor:
        index = torch.randint(len(renders), (recipe.vae_batch,), device=device)
        color = renders.images[index[depth_count:]]
        depth = renders.depths[index[:depth_count]].expand(-1, 3, -1, -1)
        return compiled(torch.cat([depth, color]).float() / 127.5 - 1)

    optimize("vae", batch_loss, vae.parameters(), recipe.vae_steps, recipe.vae_lr, 0.0, limit, ema=0.998)
    vae.eval().requires_grad_(False)
    latents = encode(networks, renders.images[:: max(1, len(renders) // 4000)])
    vae.register_to_config(scaling_factor=1.0 / latents.std().item())


def train_unet(networks: Networks, renders: Renders, recipe: Recipe, limit: float) -> None:
    """Noise prediction of latents under prompts whose view embeddings are mixed by azimuth, as the guidance mixes them."""
    unet, text_encoder = networks.unet.train().requires_grad_(True), networks.text_encoder.train().requires_grad_(True)
    scale, batch, device = networks.vae.config["scaling_factor"], recipe.unet_batch, renders.images.device
    latents = torch.stack([encode(networks, renders.images), encode(networks, renders.depths)]) * scale  # [2, N, C, h, w]
    prompts = prompt_tables(networks, recipe.seed)
    alphas = make_scheduler().alphas_cumprod.to(device)
    colors = len(COLORS) + 1

    def loss(z: Tensor, t: Tensor, ids: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            hidden = text_encoder(ids).last_hidden_state[rows]  # [B, 6, L, D]
            hidden = (hidden * weights[..., None, None]).sum(1)
            noise = torch.randn_like(z)
            a = alphas[t].view(-1, 1, 1, 1)
            predicted = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, encoder_hidden_states=hidden, return_dict=False)[0]
        return (predicted.float() - noise).pow(2).mean()

    compiled = torch.compile(loss, disable=device.type == "cpu")

    def chance(probability: float) -> Tensor:
        return torch.rand(batch, device=device) < probability

    def batch_loss() -> Tensor:
        index = torch.randint(len(renders), (batch,), device=device)
        depth = chance(recipe.depth_share).long()
        color = torch.where(chance(recipe.drop_color), colors - 1, renders.colors[index])
        kind = (renders.objects[index] * colors + color) * 2 + depth
        no_view = torch.zeros(batch, ROWS_PER_KIND, device=device)
        no_view[:, 0] = 1
        view = torch.cat([torch.zeros(batch, 1, device=device), renders.views[index]], 1)
        weights = torch.where(chance(recipe.drop_view)[:, None], no_view, view)
        rows = 1 + kind[:, None] * ROWS_PER_KIND + torch.arange(ROWS_PER_KIND, device=device)
        rows = torch.where(chance(recipe.drop_prompt)[:, None], 0, rows)  # row 0 is the empty prompt, whatever the weights
        ids = prompts[torch.randint(len(prompts), (1,), device=device)][0]
        t = torch.randint(len(alphas), (batch,), device=device)
        return compiled(latents[depth, index].float(), t, ids, rows, weights)

    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimize("unet", batch_loss, parameters, recipe.unet_steps, recipe.unet_lr, 0.01, limit, ema=recipe.ema)
    unet.eval().requires_grad_(False)
    text_encoder.eval().requires_grad_(False)


def prompt_tables(networks: Networks, seed: int, tables: int = 24) -> Tensor:
    """Token ids [tables, rows, L]: row 0 is empty; then object, colour (last: unnamed), colour or depth, view (first: none)."""
    generator = np.random.default_rng(seed)
    texts = []
    for table in range(tables):
        texts.append("")
        for name, nouns in NOUNS.items():
            for color in [*COLORS, None]:
                prompt = describe(
                    name, color, PHRASES[generator.integers(len(PHRASES))], int(generator.integers(2 * len(nouns))) // 2
                )
                for depth in ("", PROMPTING.depth):
                    for view in ("", *VIEWS):
                        tail = [depth, view] if table % 2 else [view, depth]
                        texts.append(", ".join(part for part in (prompt, *tail) if part))
    ids = networks.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
    return ids.view(tables, -1, MAX_TOKENS).to(networks.text_encoder.device)


def optimize(
    stage: str,
    batch_loss: Callable[[], Tensor],
    parameters: Iterable[Parameter],
    steps: int,
    peak_lr: float,
    weight_decay: float,
    limit: float,
    ema: float,
) -> None:
    """AdamW under warm-up and cosine decay in one captured graph a step; leaves the exponential average in the parameters."""
    parameters = list(parameters)
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    lr, total = torch.zeros((), device=device), torch.zeros((), device=device)
    optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True, capturable=on_gpu)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss = batch_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        total.add_(loss.detach())

    advance = capture(step) if on_gpu else step
    average = [p.detach().clone() for p in parameters]
    begin, every = time.time(), max(1, steps // 20)
    total.zero_()
    for i in range(1, steps + 1):
        if on_gpu and i % 50 == 0:  # keep the clock honest: replays only queue work
            torch.cuda.synchronize()
        progress = min(1.0, max(i / steps, (time.time() - begin) / limit))
        lr.fill_(peak_lr * min(1.0, i / 500) * max(0.005, 0.5 * (1 + math.cos(math.pi * progress))))
        advance()
        if i % 8 == 0:
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                average, [p.detach() for p in parameters], 8 * (1 - min(ema, 1 - 1 / (1 + i / 10)))
            )
        if i % every == 0 or progress >= 1:
            print(f"{stage} {i}: loss {total.item() / (i % every or every):.5f}, {time.time() - begin:.0f} s", flush=True)
            total.zero_()
        if progress >= 1:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of ``step``, after three steps for real at learning rate 0 that compile and allocate."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.no_grad()
def encode(networks: Networks, pictures: Tensor) -> Tensor:
    """Latent means [N, C, 16, 16] of uint8 pictures [N, 1 or 3, 128, 128], in half precision and unscaled."""
    chunks = []
    for chunk in pictures.split(250):
        with torch.autocast(pictures.device.type, torch.bfloat16):
            chunks.append(networks.vae.encode(chunk.expand(-1, 3, -1, -1).float() / 127.5 - 1).latent_dist.mean.half())
    return torch.cat(chunks)


@torch.no_grad()
def psnr(networks: Networks, renders: Renders) -> float:
    """Peak signal-to-noise ratio of reconstructed colour pictures, in dB over all pixels of all pictures."""
    error = 0.0
    for chunk in renders.images.split(64):
        x = chunk.float().to(networks.vae.device) / 255
        y = networks.vae.decode(networks.vae.encode(x * 2 - 1).latent_dist.mean).sample * 0.5 + 0.5
        error += (y.clamp(0, 1) - x).pow(2).mean().item() * len(chunk) / len(renders)
    return -10 * math.log10(error)


@torch.no_grad()
def held_out_loss(networks: Networks, renders: Renders, recipe: Recipe) -> float:
    """Noise prediction error on pictures that were not trained on, with full prompts."""
    device = renders.images.device
    generator = torch.Generator(device).manual_seed(recipe.seed)
    alphas = make_scheduler().alphas_cumprod.to(device)
    ids, total = prompt_tables(networks, recipe.seed, tables=1)[0], 0.0
    hidden = networks.text_encoder(ids).last_hidden_state
    latents = encode(networks, renders.images).float() * networks.vae.config["scaling_factor"]
    for index in torch.arange(len(renders), device=device).split(64):
        kind = (renders.objects[index] * (len(COLORS) + 1) + renders.colors[index]) * 2
        rows = 1 + kind[:, None] * ROWS_PER_KIND + torch.arange(1, ROWS_PER_KIND, device=device)
        context = (hidden[rows] * renders.views[index][..., None, None]).sum(1)
        t = torch.randint(len(alphas), (len(index),), device=device, generator=generator)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn(latents[index].shape, device=device, generator=generator)
        predicted = networks.unet(a.sqrt() * latents[index] + (1 - a).sqrt() * noise, t, encoder_hidden_states=context).sample
        total += (predicted - noise).pow(2).mean().item() * len(index) / len(renders)
    return total
