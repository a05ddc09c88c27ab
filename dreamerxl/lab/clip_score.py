"""CLIP score: the mean cosine of a prompt's embedding with those of renders (Table 1), by CLIP and OpenCLIP ViT-L/14.

Both are read through transformers' CLIPModel from the hub's .safetensors; renders go through CLIP's own preprocessing
(shorter side to 224 by Pillow's bicubic filter, the middle of it, CLIP's mean and deviation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamerxl.errors import WeightsError
from dreamerxl.guidance.hub import Say, fetch, silent
from dreamerxl.guidance.parts import quietly

MODELS = {"clip": "openai/clip-vit-large-patch14", "openclip": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"}
NAMES = {"clip": "CLIP-L/14", "openclip": "OpenCLIP-L/14"}
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WANTED += ("vocab.json", "merges.txt")
AT_ONCE = 16  # pictures in a call


@dataclass(frozen=True, eq=False)
class ClipScorer:
    """A CLIP model and its tokenizer."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def score(self, views: np.ndarray, prompt: str) -> float:
        """Mean cosine of renders [V, H, W, 3] uint8 with a prompt; words beyond CLIP's 77 tokens are cut off."""
        length = self.model.config.text_config.max_position_embeddings
        text = self.tokenizer([prompt], padding=True, truncation=True, max_length=length, return_tensors="pt")
        pixels = preprocess(views, self.model.config.vision_config.image_size)
        found = []
        for start in range(0, len(pixels), AT_ONCE):
            out = self.model(
                input_ids=text.input_ids, attention_mask=text.attention_mask, pixel_values=pixels[start : start + AT_ONCE]
            )
            image, words = (part / part.norm(dim=-1, keepdim=True) for part in (out.image_embeds, out.text_embeds))
            found.append((image @ words.T)[:, 0])
        return torch.cat(found).mean().item()


def preprocess(views: np.ndarray, size: int) -> Tensor:
    """Renders [V, H, W, 3] uint8 as CLIP wants them, [V, 3, size, size]."""
    pictures = []
    for view in views:
        image = Image.fromarray(view)
        factor = size / min(image.size)
        image = image.resize((int(factor * image.width), int(factor * image.height)), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        pictures.append(np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255)
    scaled = (np.stack(pictures) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(scaled.astype(np.float32)).movedim(-1, 1)


def load_clip(name: str, say: Say = silent, *, download: bool = True) -> ClipScorer:
    """'clip', 'openclip', or a folder in transformers' format. Raises WeightsError with a sentence."""
    if name not in MODELS:
        return read_clip(Path(name))

    def wanted(files: Sequence[str]) -> list[str]:
        return [file for file in WANTED if file in files] if "model.safetensors" in files else []

    folder = fetch(MODELS[name], wanted, say, download=download, landmark="model.safetensors", otherwise="")
    return read_clip(folder)


def read_clip(folder: Path) -> ClipScorer:
    """A CLIP model from a folder. Raises WeightsError with a sentence."""
    from transformers import AutoTokenizer, CLIPModel

    try:
        with quietly():
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the loaders raise anything on malformed files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"The CLIP model in {folder} cannot be read: {first}") from None
    return ClipScorer(model.eval().requires_grad_(False), tokenizer)
