"""Training of the embedded model on a GPU: the VAE, then the UNet together with the text encoder, and, apart, the judge.

On a GPU every step is one captured CUDA graph that draws its own batch, so that the CPU only replays it. The schedule counts
steps; a time limit, where one is given, shortens it without leaving the learning rate high. Every stage starts from an
earlier folder when one is given, which is how a long training is chained from short ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from dreamerxl.guidance.prompts import view_weights
from dreamerxl.miniature.architecture import Networks, load_networks, make_networks, make_scheduler, save_networks
from dreamerxl.miniature.data import CAPTIONS, JUMBLES, Renders, draw, join, sketchers
from dreamerxl.miniature.judge import Judge, load_judge, save_judge
from dreamerxl.miniature.language import MAX_TOKENS, PLAIN_VIEWS, PROMPTING, VIEWS, Prompting
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COATS

STAGES = ("judge", "vae", "unet")  # and, by name only, "decoder": the VAE's decoder alone, which leaves every latent as it is
SUFFIXES = ("", *VIEWS, *PLAIN_VIEWS)  # what is said of the view
NEVER_ASKED = -30.0  # added to the logit of an answer that the data never gives
NAMED = 3  # directions that a camera can lie between: two sides and overhead


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on besides the code."""

    seed: int = 0
    renders: int = 6000  # of each object
    held_out: int = 32  # of each object, from another seed
    depth_share: float = 0.08  # of a batch: depth pictures in place of colour
    vae_steps: int = 30_000
    vae_batch: int = 64
    vae_lr: float = 1.5e-3
    vae_squares: float = 20.0  # weight of the squared error beside that of the absolute error and of edges
    kl: float = 1e-6
    unet_steps: int = 80_000
    unet_batch: int = 256
    unet_lr: float = 8e-4
    ema: float = 0.9995
    drop_prompt: float = 0.1
    drop_view: float = 0.12
    plain_view: float = 0.15
    judge_renders: int = 4000  # of each object, from a seed of its own
    judge_jumbles: int = 40_000
    judge_steps: int = 20_000
    judge_batch: int = 512
    judge_lr: float = 1.5e-3


@dataclass(frozen=True)
class Limits:
    """Longest time for each stage and for the whole, in seconds; infinite by default. The UNet gets what is left of the whole."""

    vae: float = math.inf
    unet: float = math.inf
    judge: float = math.inf
    whole: float = math.inf


UNLIMITED = Limits()


def train(
    recipe: Recipe,
    out: Path,
    start: Path | None = None,
    limits: Limits = UNLIMITED,
    stages: Sequence[str] = STAGES,
    device: str = "cuda",
    workers: int = 14,
) -> None:
    """Draw the data, train the stages and write the folder. Prints what a log should hold."""
    clock = time.time()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    with sketchers(workers if device.startswith("cuda") else 0) as pool:
        if "judge" in stages:
            renders = draw(recipe.judge_renders, recipe.seed + 100, device, pool, "common", flawed=False)
            if recipe.judge_jumbles:
                jumbles = draw(recipe.judge_jumbles, recipe.seed + 100, device, pool, flawed=False, names=JUMBLES)
                renders = join([renders, jumbles])
                del jumbles
            print(f"judge data: {len(renders):,} pictures, {time.time() - clock:.0f} s", flush=True)
            judge = load_judge(start / "judge") if start and (start / "judge").is_dir() else make_judge(recipe.seed)
            train_judge(judge.to(device), renders, recipe, limits.judge)
            save_judge(judge, out / "judge")
            for name, kind in (("common", "common"), ("unseen", "reserved")):
                asked = draw(recipe.held_out, recipe.seed + 101, device, pool, kind, flawed=False)  # pyright: ignore[reportArgumentType]
                print(f"judge on held-out {name} combinations: {accuracy(judge, asked)}, {time.time() - clock:.0f} s", flush=True)
            del renders
        if not {"vae", "decoder", "unet"} & set(stages):
            return
        renders = draw(recipe.renders, recipe.seed, device, pool)
        held_out = draw(recipe.held_out, recipe.seed + 1, device, pool, flawed=False)
    print(f"data: {len(renders):,} pictures and {len(held_out):,} held out, {time.time() - clock:.0f} s", flush=True)
    torch.manual_seed(recipe.seed)
    networks = load_networks(start) if start else make_networks(recipe.seed)
    for network in (networks.vae, networks.text_encoder, networks.unet):
        network.to(device)
    if "vae" in stages or "decoder" in stages:
        train_vae(networks, renders, recipe, limits.vae, decoder_only="vae" not in stages)
        save_networks(networks, out)
    print(f"vae: held-out PSNR {psnr(networks, held_out):.2f} dB, {time.time() - clock:.0f} s", flush=True)
    if "unet" in stages:
        left = min(limits.unet, limits.whole - (time.time() - clock))
        train_unet(networks, renders, recipe, left, lambda: save_networks(networks, out))
        print(f"unet: held-out loss {held_out_loss(networks, held_out, recipe):.4f}, {time.time() - clock:.0f} s", flush=True)


def train_vae(networks: Networks, renders: Renders, recipe: Recipe, limit: float, decoder_only: bool = False) -> None:
    """Reconstruction in L1, L2 and image gradients, with a light Kullback-Leibler term; sets the scaling factor.

    The decoder alone can be trained further beside or after a UNet, whose latents stay as they are.
    """
    vae = networks.vae.train().requires_grad_(True)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    depth_count, device = round(recipe.depth_share * recipe.vae_batch), renders.images.device

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        e = y.float() - x
        edges = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
        return e.abs().mean() + recipe.vae_squares * (e**2).mean() + edges + recipe.kl * posterior.kl().float().mean()

    compiled = torch.compile(loss, disable=device.type == "cpu")

    def batch_loss() -> Tensor:
        index = torch.randint(len(renders), (recipe.vae_batch,), device=device)
        color = renders.images[index[depth_count:]]
        depth = renders.depths[index[:depth_count]].expand(-1, 3, -1, -1)
        return compiled(torch.cat([depth, color]).float() / 127.5 - 1)

    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimize("vae", batch_loss, parameters, recipe.vae_steps, recipe.vae_lr, 0.0, limit, ema=0.998)
    vae.eval().requires_grad_(False)
    if decoder_only:
        return
    latents = encode(networks, renders.images[:: max(1, len(renders) // 4000)])
    vae.register_to_config(scaling_factor=1.0 / latents.std().item())


class Batches:
    """Random batches for the UNet: scaled latents, timesteps, and prompts as the guidance will ask for them.

    A prompt comes as three rows of token ids, one for each direction that the camera lies between, and their weights.
    """

    def __init__(self, networks: Networks, renders: Renders, recipe: Recipe, batch: int) -> None:
        self.renders, self.recipe, self.batch = renders, recipe, batch
        self.device, tokenizer = renders.images.device, networks.tokenizer
        scale = networks.vae.config["scaling_factor"]
        self.latents = (
            torch.stack([encode(networks, renders.images), encode(networks, renders.depths)]) * scale
        )  # [2, N, C, h, w]
        texts = [f"{view} {depth}" for depth in ("", PROMPTING.depth) for view in SUFFIXES]
        rows = tokenizer(texts, add_special_tokens=False).input_ids
        self.suffix_lengths = torch.tensor([len(row) for row in rows], device=self.device)
        longest = int(self.suffix_lengths.max())
        self.suffixes = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        self.end, self.pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        self.empty = torch.tensor([self.end] + [self.pad] * (MAX_TOKENS - 1), device=self.device)
        self.timesteps = len(make_scheduler().alphas_cumprod)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents [B, C, h, w], t [B], ids [B, 3, L], weights [B, 3]."""
        renders, recipe = self.renders, self.recipe
        index = torch.randint(len(renders), (self.batch,), device=self.device)
        depth = (self._chance(recipe.depth_share) & ~renders.flawed[index]).long()
        weights, view = self._view_rows(renders.azimuth_deg[index], renders.elevation_deg[index]).topk(NAMED, dim=1)
        which = torch.randint(CAPTIONS, (self.batch,), device=self.device)
        ids = self._compose(renders.captions[index, which].long(), renders.lengths[index, which].long(), view, depth)
        dropped = self._chance(recipe.drop_prompt)
        ids = torch.where(dropped[:, None, None], self.empty, ids)  # the weights sum to 1, whatever they are
        t = torch.randint(self.timesteps, (self.batch,), device=self.device)
        return self.latents[depth, index].float(), t, ids, weights

    def _view_rows(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
        """Weights [B, 10] over SUFFIXES: no view, or the five directions, or the paper's plain words."""
        fine, plain = (view_weights(p, azimuth_deg, elevation_deg) for p in (PROMPTING, Prompting()))
        style = torch.rand(self.batch, 1, device=self.device)
        none = style < self.recipe.drop_view
        is_plain = (style >= self.recipe.drop_view) & (style < self.recipe.drop_view + self.recipe.plain_view)
        is_fine = ~none & ~is_plain
        return torch.cat([none.float(), fine * is_fine, plain[:, : len(PLAIN_VIEWS)] * is_plain], 1)

    def _compose(self, base: Tensor, length: Tensor, view: Tensor, depth: Tensor) -> Tensor:
        """Token ids [B, 3, L]: the caption, what is said of the view and of depth, an end token, padding."""
        suffix = view + len(SUFFIXES) * depth[:, None]  # [B, 3]
        place = torch.arange(MAX_TOKENS, device=self.device)
        offset = place - length[:, None, None]  # [B, 1, L]
        count = self.suffix_lengths[suffix][..., None]
        longest = self.suffixes.shape[1]
        tail = self.suffixes[suffix].gather(2, offset.clamp(0, longest - 1).expand(-1, NAMED, -1))
        tail = torch.where(offset < count, tail, torch.where(offset == count, self.end, self.pad))
        return torch.where(offset < 0, base[:, None], tail)

    def _chance(self, probability: float) -> Tensor:
        return torch.rand(self.batch, device=self.device) < probability


def make_unet_loss(networks: Networks, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Squared error of the noise prediction under embeddings mixed by the camera's place, as the guidance mixes them."""
    alphas = make_scheduler().alphas_cumprod.to(device)

    def loss(z: Tensor, t: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            hidden = networks.text_encoder(ids.flatten(0, 1)).last_hidden_state.unflatten(0, (-1, NAMED))  # [B, 3, L, D]
            hidden = (hidden * weights[..., None, None]).sum(1)
            noise = torch.randn_like(z)
            a = alphas[t].view(-1, 1, 1, 1)
            noisy = a.sqrt() * z + (1 - a).sqrt() * noise
            predicted = networks.unet(noisy, t, encoder_hidden_states=hidden, return_dict=False)[0]
        return (predicted.float() - noise).pow(2).mean()

    return loss


def train_unet(networks: Networks, renders: Renders, recipe: Recipe, limit: float, save: Callable[[], None]) -> None:
    """Noise prediction of latents, colour and depth pictures alike; saved every quarter of the way."""
    unet, text_encoder = networks.unet.train().requires_grad_(True), networks.text_encoder.train().requires_grad_(True)
    batches = Batches(networks, renders, recipe, recipe.unet_batch)
    compiled = torch.compile(make_unet_loss(networks, batches.device), disable=batches.device.type == "cpu")
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    draw_loss = lambda: compiled(*batches.draw())  # noqa: E731
    optimize("unet", draw_loss, parameters, recipe.unet_steps, recipe.unet_lr, 0.01, limit, recipe.ema, save)
    unet.eval().requires_grad_(False)
    text_encoder.eval().requires_grad_(False)


@torch.no_grad()
def held_out_loss(networks: Networks, renders: Renders, recipe: Recipe, rounds: int = 20) -> float:
    """Noise prediction error on pictures that were not trained on."""
    batches = Batches(networks, renders, recipe, min(recipe.unet_batch, len(renders)))
    loss = make_unet_loss(networks, batches.device)
    with torch.random.fork_rng(devices=[batches.device] if batches.device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        return sum(loss(*batches.draw()).item() for _ in range(rounds)) / rounds


def make_judge(seed: int) -> Judge:
    """A fresh judge with random weights from a seed of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 100)
        return Judge()


def train_judge(judge: Judge, renders: Renders, recipe: Recipe, limit: float) -> None:
    """Names and matching: cross-entropy of each head, and CLIP's symmetric loss between pictures and captions."""
    judge.train().requires_grad_(True)
    device, batch, tokenizer = renders.images.device, recipe.judge_batch, judge.tokenizer
    views = tokenizer(list(VIEWS), add_special_tokens=False, return_tensors="pt", padding=True)
    view_ids, view_lengths = views.input_ids.to(device), views.attention_mask.sum(1).to(device)
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    place = torch.arange(MAX_TOKENS, device=device)
    object_given_coat, coat_given_object = log_shares(renders)

    def ids_of(index: Tensor, sides: Tensor) -> Tensor:
        which = torch.randint(CAPTIONS, (batch,), device=device)
        base, length = renders.captions[index, which].long(), renders.lengths[index, which].long()
        view = sides.argmax(1)
        said = torch.where(torch.rand(batch, device=device) < 0.4, view_lengths[view], 0)[:, None]
        offset = place - length[:, None]
        tail = view_ids[view].gather(1, offset.clamp(0, view_ids.shape[1] - 1))
        tail = torch.where(offset < said, tail, torch.where(offset == said, end, pad))
        return torch.where(offset < 0, base, tail)

    def loss(x: Tensor, ids: Tensor, labels: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            features = judge.features(x)
            answers = {name: head(features).float() for name, head in judge.heads.items()}
            images, texts = judge.embed_images(features).float(), judge.embed_ids(ids).float()
        # what is common in the data, or never there, is added here, so that the heads learn what is seen, not what is usual
        answers["object"] = answers["object"] + object_given_coat[labels["coat"]]
        answers["coat"] = answers["coat"] + coat_given_object[labels["object"]]
        named = (labels["object"] >= 0).float()  # a jumble has a coat and a pattern, but no name, no side and no caption
        asked = {"object": (1.0, named), "coat": (1.0, None), "pattern": (0.5, None), "worn": (0.5, None), "side": (0.5, named)}
        labels = labels | {"object": labels["object"].clamp_min(0)}
        total = torch.zeros((), device=device)
        for name, (weight, rows) in asked.items():
            total = total + weight * mean(F.cross_entropy(answers[name], labels[name], reduction="none"), rows)
        logits, own = judge.log_temperature.exp().clamp_max(50) * images @ texts.T, torch.arange(batch, device=device)
        logits = logits + (named[:, None] * named - 1) * 1e4
        matched = [mean(F.cross_entropy(table, own, reduction="none"), named) for table in (logits, logits.T)]
        return total + 0.5 * (matched[0] + matched[1])

    compiled = torch.compile(loss, disable=device.type == "cpu")

    def batch_loss() -> Tensor:
        index = torch.randint(len(renders), (batch,), device=device)
        sides = view_weights(PROMPTING, renders.azimuth_deg[index], renders.elevation_deg[index])
        x = augment(renders.images[index].float() / 255, (renders.depths[index] > 0).float())
        chosen = {"object": renders.objects, "coat": renders.coats, "pattern": renders.patterns, "worn": renders.worn}
        labels = {name: values[index] for name, values in chosen.items()} | {"side": sides}
        return compiled(x, ids_of(index, sides), labels)

    optimize("judge", batch_loss, judge.parameters(), recipe.judge_steps, recipe.judge_lr, 0.05, limit, ema=0.998)
    judge.eval().requires_grad_(False)


def mean(losses: Tensor, rows: Tensor | None) -> Tensor:
    """Of losses [B], over the rows [B] that count (1, else 0); all where None."""
    return losses.mean() if rows is None else (losses * rows).sum() / rows.sum().clamp_min(1)


def log_shares(renders: Renders) -> tuple[Tensor, Tensor]:
    """Logarithms of how often each object comes in a coat, [coats, objects], and each coat on an object, [objects + 1, coats],
    the last row for jumbles.

    Added to the logits of a training, they take the frequencies of its data out of the answers (Menon et al. 2021).
    """
    coats, rows = len(COATS), len(OBJECTS) + 1
    pairs = torch.bincount(renders.objects % rows * coats + renders.coats, minlength=rows * coats)  # -1 % rows is the last
    counts = pairs.view(rows, coats).float()
    shares = [count / count.sum(1, keepdim=True).clamp_min(1) for count in (counts[:-1].T, counts)]
    return tuple(share.log().clamp_min(NEVER_ASKED) for share in shares)  # pyright: ignore[reportReturnType]


def augment(images: Tensor, mask: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] as a distillation might show them: on another background, moved, soft, blotched, noisy, faded.

    Every fourth stays as it is.
    """
    batch, device, untouched = len(images), images.device, images

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, device=device)

    def maybe(probability: float) -> Tensor:
        return torch.rand(batch, 1, 1, 1, device=device) < probability

    plain = torch.where(maybe(0.4), 1.0, torch.rand(batch, 3, 1, 1, device=device))
    soft = F.avg_pool2d(mask, 3, 1, 1)
    images = torch.where(maybe(0.5), images * soft + plain * (1 - soft), images)
    size, zero = uniform(0.8, 1.2), torch.zeros(batch, device=device)
    move = torch.stack([torch.stack([size, zero, uniform(-0.1, 0.1)], 1), torch.stack([zero, size, uniform(-0.1, 0.1)], 1)], 1)
    grid = F.affine_grid(move, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for kernel, probability in ((3, 0.5), (5, 0.35), (7, 0.2)):
        blurred = F.avg_pool2d(F.pad(images, (kernel // 2,) * 4, mode="replicate"), kernel, 1)
        images = torch.where(maybe(probability), blurred, images)
    for cells in (8, 24):
        blotches = F.interpolate(torch.randn(batch, 3, cells, cells, device=device), images.shape[-2:], mode="bilinear")
        images = images + uniform(0, 0.06, 1, 1, 1) * blotches
    images = images + uniform(0, 0.06, 1, 1, 1) * torch.randn_like(images)
    grey = images.mean(1, keepdim=True)
    images = grey + uniform(0.8, 1.35, 1, 1, 1) * (images - grey)
    images = ((images - 0.5) * uniform(0.8, 1.15, 1, 1, 1) + 0.5 + uniform(-0.06, 0.06, 1, 1, 1)).clamp(0, 1)
    return torch.where(maybe(0.25), untouched, images)


@torch.no_grad()
def accuracy(judge: Judge, renders: Renders) -> str:
    """Share of pictures whose object, coat, and both are named right."""
    answers = [judge.answers(x.float() / 255) for x in renders.images.split(256)]
    objects, coats = (torch.cat([one[name] for one in answers]).argmax(1) for name in ("object", "coat"))
    object_right, coat_right = objects == renders.objects, coats == renders.coats
    shares: dict[str, Any] = {"object": object_right, "coat": coat_right, "both": object_right & coat_right}
    return ", ".join(f"{name} {value.float().mean().item():.2%}" for name, value in shares.items())


def optimize(
    stage: str,
    batch_loss: Callable[[], Tensor],
    parameters: Iterable[Parameter],
    steps: int,
    peak_lr: float,
    weight_decay: float,
    limit: float,
    ema: float,
    save: Callable[[], None] = lambda: None,
) -> None:
    """AdamW under warm-up and cosine decay in one captured graph a step; leaves the exponential average in the parameters.

    ``save`` is called with the average in place, at every quarter of the way and at the end.
    """
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

    begin = time.time()
    advance = capture(step) if on_gpu else step
    average = [p.detach().clone() for p in parameters]
    every, quarters = max(1, steps // 20), 1
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
        if progress * 4 > quarters:
            quarters += 1
            swap(parameters, average)
            save()
            swap(parameters, average)
    swap(parameters, average)
    save()


@torch.no_grad()
def swap(parameters: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    """Exchange contents in place, for a captured graph holds on to the memory."""
    for parameter, value in zip(parameters, values, strict=True):
        kept = parameter.clone()
        parameter.copy_(value)
        value.copy_(kept)


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
