"""How prompts speak of the world: captions of things, views and flaws, and the word-level tokenizer made of their words."""

from __future__ import annotations

import itertools

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dreamerxl.config import Prompting
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COLORS, MATERIALS, PATTERNS, Thing

MAX_TOKENS = 32

PHRASES = (  # {thing} comes with its article, {bare} without
    "{thing}",
    "{bare}",
    "a DSLR photo of {thing}",
    "a photo of {thing}",
    "a zoomed out DSLR photo of {thing}",
    "a close up photo of {thing}",
    "a 3D render of {thing}",
    "a 3D model of {thing}",
    "a picture of {thing}",
    "an image of {thing}",
    "a high quality photo of {thing}",
    "a portrait of {thing}",
    "an action figure of {thing}",
    "a toy {bare}",
    "a small cute {bare}",
    "the {bare}",
    "one {bare} on a plain background",
    "{thing} on a white background",
    "{thing} made of plastic",
    "{thing}, highly detailed",
    "{thing}, photorealistic, 8K, HDR",
    "a DSLR photo of {thing}, HD, high resolution",
)
PLAIN = PHRASES[2]

SYNONYMS = {  # read as the word on the right
    "gray": "grey",
    "teal": "turquoise",
    "cyan": "turquoise",
    "aqua": "turquoise",
    "violet": "purple",
    "crimson": "red",
    "scarlet": "red",
    "magenta": "pink",
    "lime": "green",
    "navy": "blue",
    "gold": "golden",
    "wood": "wooden",
    "shiny": "glossy",
    "polished": "glossy",
    "dotted": "spotted",
    "polka": "spotted",
    "dots": "spotted",
    "stripes": "striped",
    "stripy": "striped",
    "spots": "spotted",
    "kitten": "cat",
    "puppy": "dog",
    "automobile": "car",
    "android": "robot",
    "buccaneer": "pirate",
    "shawl": "scarf",
    "photograph": "photo",
    "rendering": "render",
    "tiny": "small",
    "little": "small",
}

FLAWS: dict[str, tuple[str, ...]] = {  # how a picture can be spoilt -> what that is called; words for negative prompts
    "blur": ("blurry", "out of focus", "low quality", "low resolution"),
    "noise": ("noisy", "ugly", "low quality"),
    "fade": ("low contrast", "dull"),
    "dark": ("dark", "ugly"),
    "garish": ("oversaturation", "oversaturated", "unrealistic"),
}

PROMPTING = Prompting(left="left side view", right="right side view", overhead="overhead view", depth="depth map")
VIEWS = (PROMPTING.front, PROMPTING.left, PROMPTING.back, PROMPTING.right, PROMPTING.overhead)
PLAIN_VIEWS = (Prompting().front, Prompting().left, Prompting().back, Prompting().right)  # one word for left and right


def with_article(bare: str) -> str:
    """'duck' as 'a duck', 'orange duck' as 'an orange duck'."""
    return f"{'an' if bare[0] in 'aeiou' else 'a'} {bare}"


def name_thing(thing: Thing, generator: np.random.Generator | None = None) -> str:
    """What a thing is called, without an article; a generator varies nouns, order and joining words."""

    def pick(*options: str) -> str:
        return options[0] if generator is None else options[generator.integers(len(options))]

    nouns = OBJECTS[thing.object].nouns
    words = [thing.pattern, thing.coat] if pick("pattern", "pattern", "coat") == "pattern" else [thing.coat, thing.pattern]
    bare = " ".join(word for word in (*words, pick(nouns[0], *nouns)) if word)
    if thing.wears:
        worn = f"{thing.wears_color} {thing.wears}".strip()
        bare += f" {pick('wearing', 'wearing', 'with')} {with_article(worn)}"
    if thing.on_table:
        bare += " on a wooden table" if pick("wooden", "wooden", "plain") == "wooden" else " on a table"
    return bare


def describe(thing: Thing, phrase: str = PLAIN, generator: np.random.Generator | None = None) -> str:
    """One prompt for a thing: describe(Thing('duck', 'yellow')) is 'a DSLR photo of a yellow duck'."""
    bare = name_thing(thing, generator)
    return phrase.format(thing=with_article(bare), bare=bare)


def caption(thing: Thing, generator: np.random.Generator, flaw: str = "") -> str:
    """A random way to say what a picture shows and what is wrong with it."""
    text = describe(thing, PHRASES[generator.integers(len(PHRASES))], generator)
    if not flaw:
        return text
    word = FLAWS[flaw][generator.integers(len(FLAWS[flaw]))]
    return f"{word} {text}" if generator.random() < 0.4 else f"{text}, {word}"


def vocabulary() -> list[str]:
    """Every word that captions use, sorted."""
    nouns = itertools.chain.from_iterable(kind.nouns for kind in OBJECTS.values())
    said = [*nouns, *COLORS, *MATERIALS, *PATTERNS, *ACCESSORIES, *itertools.chain.from_iterable(FLAWS.values())]
    said += [phrase.format(thing="a an", bare="with wearing on a wooden table") for phrase in PHRASES]
    said += [*VIEWS, *PLAIN_VIEWS, PROMPTING.depth]
    return sorted({word for text in said for word in text.lower().replace(",", " ").split()})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word; case and punctuation do not count, synonyms are one word, others become <unk>."""
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]  # transformers treats an end token with id 2 in a special way: avoid it
    words = {word: index for index, word in enumerate(special + vocabulary())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    replaced = [normalizers.Replace(Regex(rf"\b{word}\b"), known) for word, known in SYNONYMS.items()]
    plain = [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9]+"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*plain, *replaced])
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
