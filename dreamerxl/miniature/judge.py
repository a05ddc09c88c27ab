"""The judge: a small image-text encoder that says how well a picture fits a prompt, and names what it sees.

It is trained apart from the generator, on renders of its own that are blurred, noised, shifted and set on other
backgrounds, so that soft splats do not confuse it. The score is the cosine of an image and a text embedding, as CLIP's
(Radford et al. 2021); the answers come from linear heads on the image embedding. Of every object one coat was kept from the
training, and a network believes too little in what it never saw: the answers make up for that (Chao et al. 2016, calibrated
stacking).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dreamerxl.guidance.words import readable
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.language import MAX_TOKENS, make_tokenizer, vocabulary
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COATS, PATTERNS, Thing, is_reserved

WEIGHTS = Path(__file__).parent / "weights" / "judge"
SIZE = 128  # pixels
WIDTHS = (32, 64, 128, 192)
EMBEDDING = 128
SIDES = ("front", "left", "back", "right", "above")
UNSEEN = 2.0  # a coat's logit on an object that it was never seen on is raised by this; more would cost answers elsewhere
HEADS = {"object": len(OBJECTS), "coat": len(COATS), "pattern": len(PATTERNS), "worn": 1 + len(ACCESSORIES), "side": len(SIDES)}


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each of N pictures: names, and the probability of each side."""

    objects: list[str]
    coats: list[str]
    patterns: list[str]
    worn: list[str]
    sides: Tensor  # [N, 5] probabilities over SIDES

    def right(self, object: str, coat: str) -> list[bool]:
        """Whether both the object and its colour or material are named right, for each picture."""
        return [seen == object and color == coat for seen, color in zip(self.objects, self.coats, strict=True)]


class Residual(nn.Module):
    """Two convolutions beside a skip connection, halving the resolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.silu(self.norm1(self.first(x))))
        return F.silu(self.norm2(h) + self.skip(F.avg_pool2d(x, 2)))


class Judge(nn.Module):
    """Image tower, text tower and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: Any = make_tokenizer()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(Residual(a, b) for a, b in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True))
        self.pool = nn.Linear(WIDTHS[-1] * 16 + sum(WIDTHS[1:3]), 384)
        self.heads = nn.ModuleDict({name: nn.Linear(384, count) for name, count in HEADS.items()})
        self.image_projection = nn.Linear(384, EMBEDDING)
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=EMBEDDING,
                intermediate_size=2 * EMBEDDING,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                pad_token_id=self.tokenizer.pad_token_id,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        )
        self.text_projection = nn.Linear(EMBEDDING, EMBEDDING)
        self.log_temperature = nn.Parameter(torch.tensor(2.66))

    def features(self, images: Tensor) -> Tensor:
        """[N, 384] of pictures [N, 3, 128, 128] in 0..1.

        Beside what is where, the means of the first layers: what colours there are, whatever the object.
        """
        x, means = F.silu(self.stem(images * 2 - 1)), []
        for block in self.blocks:
            x = block(x)
            means.append(x.mean((2, 3)))
        return F.silu(self.pool(torch.cat([x.flatten(1), *means[:2]], 1)))

    def embed_images(self, features: Tensor) -> Tensor:
        """Unit vectors [N, 128]."""
        return F.normalize(self.image_projection(features), dim=-1)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors [N, 128] of token ids [N, L] that end in an end token and padding."""
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        hidden = self.text(ids).last_hidden_state
        return F.normalize(self.text_projection(hidden[torch.arange(len(ids), device=ids.device), end]), dim=-1)

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Tensor:
        """Unit vectors [N, 128]; words that the judge does not know are left out."""
        texts = [readable(self.tokenizer, prompt) for prompt in prompts]
        ids = self.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
        return self.embed_ids(ids.to(self.log_temperature.device))

    @torch.no_grad()
    def score(self, images: Tensor, prompt: str) -> Tensor:
        """Cosine [N] in -1..1 of pictures [N, 3, H, W] in 0..1 with a prompt; 1 is a perfect fit."""
        return self.embed_images(self.features(_resized(images))) @ self.embed_prompts([prompt])[0]

    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [N, options] of each of HEADS for pictures [N, 3, H, W] in 0..1."""
        features = self.features(_resized(images))
        answers = {name: head(features) for name, head in self.heads.items()}
        unseen = _never_seen().to(features.device)[answers["object"].argmax(1)]
        return answers | {"coat": answers["coat"] + UNSEEN * unseen}

    @torch.no_grad()
    def recognise(self, images: Tensor) -> Verdict:
        """Names what pictures [N, 3, H, W] in 0..1 show."""
        answers = self.answers(images)
        names = {"object": list(OBJECTS), "coat": list(COATS), "pattern": list(PATTERNS), "worn": ["", *ACCESSORIES]}
        said = {name: [options[i] for i in answers[name].argmax(1).tolist()] for name, options in names.items()}
        return Verdict(said["object"], said["coat"], said["pattern"], said["worn"], answers["side"].softmax(1))


@functools.cache
def _never_seen() -> Tensor:
    """[objects, coats] 1 where the judge's training had no such thing, else 0."""
    return torch.tensor([[float(is_reserved(Thing(name, coat))) for coat in COATS] for name in OBJECTS])


def _resized(images: Tensor) -> Tensor:
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)


def save_judge(judge: Judge, folder: Path) -> None:
    """Weights in half precision, and the names that its answers stand for."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in judge.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_names(), indent=2) + "\n", encoding="utf-8")


@functools.cache
def load_judge(folder: Path = WEIGHTS) -> Judge:
    """The trained judge on the CPU, in single precision. Raises ValueError where it was trained on another world."""
    if json.loads((folder / "config.json").read_text(encoding="utf-8")) != _names():
        raise ValueError(f"The judge in {folder} was trained on other objects or words; train it again.")
    judge = Judge()
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval().requires_grad_(False)


def _names() -> dict[str, list[str]]:
    names = {"objects": OBJECTS, "coats": COATS, "patterns": PATTERNS, "worn": ACCESSORIES, "words": vocabulary()}
    return {key: list(value) for key, value in names.items()}
