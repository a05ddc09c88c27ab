"""What a model's tokenizer can read: the words of a word-level vocabulary, and sentences about a prompt.

A byte-pair tokenizer (Stable Diffusion's) reads any text; a word-level one (the embedded model's) knows a short
list, and everything else would become one meaningless token.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
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


def check_prompt(tokenizer: Any, prompt: str, subjects: Sequence[str] = (), qualities: Sequence[str] = ()) -> list[str]:
    """Sentences for the visitor about a prompt that can be used. Raises SettingsError where it cannot.

    subjects: what a model of few words can make, of which a prompt must name one; qualities: what it can say of them.
    """
    if not prompt.strip():
        raise SettingsError("The prompt is empty; say in words what to make, for example 'a red chair'.")
    notices = []
    vocabulary, unknown, known = known_words(tokenizer), unknown_words(tokenizer, prompt), readable(tokenizer, prompt)
    if vocabulary:
        words = [*subjects, *qualities] or [word for word in vocabulary if word not in FILLER]
        knows = f"It knows {_listed(subjects)}; {_listed(qualities)}." if subjects else f"It knows {_listed(words)}."
        advice = _nearest(unknown, words)
        if not set(known.split()) - FILLER:
            raise SettingsError(f"The model knows no word of the prompt {_quoted(prompt)}{advice}. {knows}")
        if subjects and not any(f" {subject} " in f" {known} " for subject in subjects):
            raise SettingsError(f"The prompt {_quoted(prompt)} names nothing that the model can make{advice}. {knows}")
        if unknown:
            notices.append(f"The model does not know {_listed(unknown, quotes=True)}{advice}; it makes {_quoted(known)}. {knows}")
    limit = tokenizer.model_max_length
    count = len(tokenizer(known, verbose=False).input_ids)
    if count > limit:
        notices.append(f"The prompt has {count} tokens and the model reads {limit}; the words at the end are not read.")
    return notices


def _nearest(unknown: list[str], words: list[str]) -> str:
    found = [match for word in unknown for match in difflib.get_close_matches(word, words, n=1, cutoff=0.7)]
    return f" (did you mean {_listed(list(dict.fromkeys(found)))}?)" if found else ""


def _listed(words: Sequence[str], quotes: bool = False) -> str:
    shown = [_quoted(word) if quotes else word for word in words[:SHOWN]]
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"
