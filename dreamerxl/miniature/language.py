"""What the embedded model can be told: objects, colours, phrases, and the word-level tokenizer made of them."""

from __future__ import annotations

import itertools

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dreamerxl.config import Prompting

MAX_TOKENS = 24

COLORS: dict[str, tuple[float, float, float]] = {  # linear in 0..1, before shading
    "red": (0.85, 0.10, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.27, 0.85),
    "yellow": (0.95, 0.83, 0.10),
    "orange": (0.95, 0.48, 0.06),
    "purple": (0.50, 0.16, 0.70),
    "pink": (0.95, 0.50, 0.70),
    "white": (0.93, 0.93, 0.93),
    "black": (0.09, 0.09, 0.09),
    "brown": (0.45, 0.26, 0.12),
}

NOUNS: dict[str, tuple[str, ...]] = {  # object -> what people call it, the usual word first
    "snowman": ("snowman",),
    "mushroom": ("mushroom", "toadstool"),
    "chair": ("chair", "wooden chair"),
    "table": ("table", "round table"),
    "bear": ("teddy bear", "bear", "teddy"),
    "rocket": ("rocket", "space rocket"),
    "cactus": ("cactus", "cactus in a pot"),
    "donut": ("donut", "doughnut"),
    "house": ("house", "small house"),
    "duck": ("duck", "rubber duck"),
}

PHRASES = (  # {thing} is "red chair" or "chair"; {a} the article that fits it
    "{a} {thing}",
    "{thing}",
    "{a} photo of {a} {thing}",
    "a DSLR photo of {a} {thing}",
    "a 3D render of {a} {thing}",
    "the {thing}",
    "a picture of {a} {thing}",
    "an image of {a} {thing}",
    "a high quality photo of {a} {thing}",
    "a toy {thing}",
    "one {thing} on a plain background",
    "a close up photo of {a} {thing}",
)

PROMPTING = Prompting(left="left side view", right="right side view", overhead="overhead view", depth="depth map")
VIEWS = (PROMPTING.front, PROMPTING.left, PROMPTING.back, PROMPTING.right, PROMPTING.overhead)


def describe(name: str, color: str | None, phrase: str = PHRASES[3], noun: int = 0) -> str:
    """One prompt for an object: describe('duck', 'yellow') is 'a DSLR photo of a yellow duck'."""
    nouns = NOUNS[name]
    thing = f"{color} {nouns[noun % len(nouns)]}" if color else nouns[noun % len(nouns)]
    return phrase.format(a="an" if thing[0] in "aeiou" else "a", thing=thing)


def vocabulary() -> list[str]:
    """Every word that training prompts use, sorted."""
    things = itertools.chain(COLORS, *NOUNS.values())
    texts = [*things, *(phrase.format(a="a an", thing="") for phrase in PHRASES), *VIEWS, PROMPTING.depth]
    return sorted({word for text in texts for word in text.lower().split()})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word; case and punctuation do not count, other words become <unk>."""
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]  # transformers treats an end token with id 2 in a special way: avoid it
    words = {word: index for index, word in enumerate(special + vocabulary())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", words["<eos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=MAX_TOKENS,
    )
