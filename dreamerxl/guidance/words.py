"""What a model's tokenizer can read: the words of a word-level vocabulary, and sentences about a prompt.

A byte-pair tokenizer (Stable Diffusion's) reads any text; a word-level one (the embedded model's) knows a short
list, and everything else would become one meaningless token.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamerxl.errors import SettingsError

FILLER = frozenset(
    ("a", "an", "and", "at", "by", "for", "in", "is", "it", "of", "on", "one", "or", "that", "the", "this", "to", "with")
)  # words that name nothing
SHOWN = 60


def is_word_level(tokenizer: Any) -> bool:
    """Whether the tokenizer has one token a word and <unk> for the rest."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordLevel"


def known_words(tokenizer: Any) -> list[str]:
    """The vocabulary of a word-level tokenizer, sorted; empty for a tokenizer that reads any text."""
    if not is_word_level(tokenizer):
        return []
    special = set(tokenizer.all_special_tokens)
    return sorted(word for word in tokenizer.get_vocab() if word not in special)


def split_words(tokenizer: Any, prompt: str) -> list[str]:
    """The prompt's words as a word-level tokenizer looks them up."""
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(prompt) if backend.normalizer else prompt
    if backend.pre_tokenizer is None:
        return text.split()
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Words of the prompt that a word-level tokenizer lacks, in order, each once."""
    vocabulary = set(known_words(tokenizer))
    if not vocabulary:
        return []
    words = split_words(tokenizer, prompt)
    return list(dict.fromkeys(word for word in words if word not in vocabulary and any(map(str.isalnum, word))))


def readable(tokenizer: Any, prompt: str) -> str:
    """The prompt without the words that a word-level tokenizer lacks; unchanged for other tokenizers."""
    vocabulary = set(known_words(tokenizer))
    if not vocabulary:
        return prompt
    return " ".join(word for word in split_words(tokenizer, prompt) if word in vocabulary)


@dataclass(frozen=True)
class Repertoire:
    """What a model of few words can be asked for, to advise on prompts; empty: anything."""

    things: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what it can make, by family
    qualities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what can be said of them, by sort
    subjects: tuple[str, ...] = ()  # every name of a thing, other names too; a prompt must hold one
    flaws: tuple[str, ...] = ()  # what a negative prompt can name
    related: Mapping[str, str] = field(default_factory=dict)  # words that it lacks -> what comes nearest to them

    @property
    def names(self) -> list[str]:
        """Everything that can be asked for, as it is listed for a visitor."""
        return [name for group in (*self.things.values(), *self.qualities.values()) for name in group]


ANYTHING = Repertoire()


def check_prompt(tokenizer: Any, prompt: str, repertoire: Repertoire = ANYTHING) -> list[str]:
    """Sentences for the visitor about a prompt that can be used. Raises SettingsError where it cannot.

    What the model can make is listed only where the prompt cannot be used; else the nearest known words are enough.
    """
    if not prompt.strip():
        raise SettingsError("The prompt is empty; say in words what to make, for example 'a red chair'.")
    notices = []
    vocabulary, known = known_words(tokenizer), readable(tokenizer, prompt)
    unknown = [word for word in unknown_words(tokenizer, prompt) if word not in FILLER]
    if vocabulary:
        advice = _nearest(unknown, vocabulary, repertoire)
        knows = f"It knows {_listed([word for word in vocabulary if word not in FILLER])}."
        if repertoire.things:
            knows = f"It makes {'; '.join(f'{family}: {_listed(names)}' for family, names in repertoire.things.items())}."
        if not set(known.split()) - FILLER:
            raise SettingsError(f"The model knows no word of the prompt {_quoted(prompt)}{advice}. {knows}")
        if repertoire.subjects and not _names(known, repertoire.subjects):
            raise SettingsError(f"The prompt {_quoted(prompt)} names nothing that the model can make{advice}. {knows}")
        if unknown:
            notices.append(
                f"The model does not know {_listed(unknown, quotes=True)}{advice}; it makes {_quoted(_trimmed(known))}."
            )
    limit = tokenizer.model_max_length
    count = len(tokenizer(known, verbose=False).input_ids)
    if count > limit:
        notices.append(f"The prompt has {count} tokens and the model reads {limit}; the words at the end are not read.")
    return notices


def check_negative_prompt(tokenizer: Any, prompt: str, repertoire: Repertoire = ANYTHING) -> list[str]:
    """Sentences for the visitor about a negative prompt; an empty one needs none."""
    unknown = unknown_words(tokenizer, prompt)
    if not unknown:
        return []
    known = readable(tokenizer, prompt)
    does = f"it avoids {_quoted(known)}" if known else "it avoids nothing"
    knows = f" It can avoid: {_listed(repertoire.flaws)}." if repertoire.flaws else ""
    return [f"Of the negative prompt, the model does not know {_listed(unknown, quotes=True)}; {does}.{knows}"]


def _names(text: str, subjects: Sequence[str]) -> bool:
    return any(f" {subject} " in f" {text} " for subject in subjects)


def _nearest(unknown: list[str], vocabulary: list[str], repertoire: Repertoire) -> str:
    """What may have been meant: by kinship where it is known, else by spelling."""
    names = [*repertoire.names, *repertoire.subjects]
    words = [word for word in " ".join(names).split() or vocabulary if word not in FILLER]
    found = []
    for word in unknown:
        spelt = difflib.get_close_matches(word, words, n=1, cutoff=0.78)
        near = repertoire.related.get(word) or (spelt[0] if spelt else "")
        if near:  # a word of a longer name stands for the name: 'wizard' for 'wizard hat'
            name = near if near in names else next((name for name in names if near in name.split()), near)
            found.append(f"{name} for {_quoted(word)}")
    return f" (did you mean {', '.join(found)}?)" if found else ""


def _trimmed(text: str) -> str:
    """The text without words at its end that name nothing."""
    said = text.split()
    while said and said[-1] in FILLER:
        said.pop()
    return " ".join(said)


def _listed(words: Sequence[str], quotes: bool = False) -> str:
    shown = [_quoted(word) if quotes else word for word in words[:SHOWN]]
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"
