"""Prompts of the embedded model: what it says of its world it can read, and what it cannot read it says so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerxl.config import load_preset, preset_names
from dreamerxl.errors import SettingsError
from dreamerxl.guidance import words
from dreamerxl.guidance.prompts import phrase
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.language import (
    FLAWS,
    MAX_TOKENS,
    PLAIN_VIEWS,
    PROMPTING,
    SYNONYMS,
    VIEWS,
    caption,
    describe,
    make_tokenizer,
    vocabulary,
    with_article,
)
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.repertoire import KIN, repertoire
from dreamerxl.miniature.world import COATS, COLORS, MATERIALS, PATTERNS, Thing, draw_thing


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def test_a_thing_is_said_in_plain_english() -> None:
    assert describe(Thing("duck", "yellow")) == "a DSLR photo of a yellow duck"
    assert describe(Thing("mushroom", "orange"), "{thing}") == "an orange mushroom"
    assert describe(Thing("apple"), "the {bare}, {thing}") == "the apple, an apple"
    assert describe(Thing("mushroom", "blue", "spotted"), "{thing}") == "a spotted blue mushroom"
    assert describe(Thing("dog", "brown", wears="pirate hat"), "{thing}") == "a brown dog wearing a pirate hat"
    assert describe(Thing("cat", wears="scarf", wears_color="orange"), "{thing}") == "a cat wearing an orange scarf"
    assert describe(Thing("teapot", "golden", on_table=True), "{thing}") == "a golden teapot on a wooden table"


def test_no_caption_has_a_word_that_the_model_cannot_read_or_is_too_long_with_its_view(tokenizer: Any) -> None:
    generator, longest = np.random.default_rng(0), 0
    things = [draw_thing(name, generator) for name in OBJECTS for _ in range(40)]
    things += [Thing(name, "turquoise", "striped", "party hat" if "bear" in name else "", "turquoise", True) for name in OBJECTS]
    for thing in things:
        for flaw in ("", *FLAWS):
            text = caption(thing, generator, flaw)
            assert words.unknown_words(tokenizer, text) == [], text
            assert not flaw or any(word in text for word in FLAWS[flaw])
            view = (*VIEWS, *PLAIN_VIEWS)[int(generator.integers(len(VIEWS) + len(PLAIN_VIEWS)))]
            longest = max(longest, len(tokenizer(phrase(text, view, PROMPTING.depth)).input_ids))
    assert longest <= MAX_TOKENS


def test_captions_say_all_that_a_thing_is(tokenizer: Any) -> None:
    generator = np.random.default_rng(1)
    for name in OBJECTS:
        for _ in range(30):
            thing = draw_thing(name, generator)
            read = f" {words.readable(tokenizer, caption(thing, generator))} "
            nouns = [words.readable(tokenizer, noun) for noun in OBJECTS[name].nouns]
            assert any(f" {noun} " in read for noun in nouns), read
            for said in (thing.coat, thing.pattern, thing.wears, thing.wears_color):
                assert f" {said} " in read or not said
            assert thing.on_table == (" on a wooden table " in read or " on a table " in read)


def test_the_vocabulary_is_the_world_and_no_more() -> None:
    known = vocabulary()
    assert known == sorted(set(known)) and all(re.fullmatch(r"[a-z0-9]+", word) for word in known)
    everything = [noun for kind in OBJECTS.values() for noun in kind.nouns] + [*COLORS, *MATERIALS, *PATTERNS, *ACCESSORIES]
    assert {word for text in everything for word in text.split()} <= set(known)
    assert not set(SYNONYMS) & set(SYNONYMS.values())


def test_the_paper_s_prompts_are_read_whole(tokenizer: Any) -> None:
    for view in (*VIEWS, *PLAIN_VIEWS, "front view", "side view", "back view", "overhead view"):
        assert words.unknown_words(tokenizer, f"a DSLR photo of a red robot, {view}") == []
    assert words.unknown_words(tokenizer, "A zoomed out DSLR photo of a teapot, photorealistic, 8K, HDR") == []


def test_case_and_punctuation_do_not_count_and_synonyms_are_one_word(tokenizer: Any) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer(text).input_ids

    assert ids("A Red, DUCK!") == ids("a red duck")
    for word, known in SYNONYMS.items():
        assert ids(f"a {word} thing") == ids(f"a {known} thing") != ids("a thing thing")
    assert ids("a goldenrod") != ids("a golden"), "only whole words are replaced"
    unknown = ids("a red zebra")
    assert unknown.count(tokenizer.unk_token_id) == 1 and unknown[-1] == tokenizer.eos_token_id


def test_things_are_told_apart_by_their_tokens(tokenizer: Any) -> None:
    texts = [describe(Thing(name, coat)) for name in OBJECTS for coat in COATS]
    rows = {tuple(tokenizer(text).input_ids) for text in texts}
    assert len(rows) == len(texts) and all(tokenizer.unk_token_id not in row for row in rows)


def test_articles_fit_what_follows() -> None:
    assert with_article("orange duck") == "an orange duck" and with_article("duck") == "a duck"
    generator = np.random.default_rng(2)
    for name in OBJECTS:
        text = caption(draw_thing(name, generator), generator)
        assert not re.search(r"\ban [^aeiou]|\ba [aeiou]", text), text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_named(text: str) -> None:
    tokenizer = make_tokenizer()
    unknown, read = words.unknown_words(tokenizer, text), words.readable(tokenizer, text)
    assert set(unknown).isdisjoint(vocabulary()) and set(read.split()) <= set(vocabulary())
    assert tokenizer.unk_token_id not in tokenizer(read).input_ids


def test_what_a_visitor_reads_is_the_whole_catalogue_once() -> None:
    shown = repertoire()
    things = [name for names in shown.things.values() for name in names]
    assert sorted(things) == sorted(OBJECTS) and {"animals", "buildings", "vehicles"} <= set(shown.things)
    said = {name for names in shown.qualities.values() for name in names}
    assert said >= {*COLORS, *MATERIALS, "striped", "spotted", "glossy", *ACCESSORIES} and "plain" not in said
    tokenizer = make_tokenizer()
    for name in shown.names:
        assert words.unknown_words(tokenizer, name) == []
    for subject in shown.subjects:
        assert words.check_prompt(tokenizer, f"a photo of a {subject}", shown) == [], subject


def test_the_presets_of_the_embedded_model_are_read_whole() -> None:
    prompts = [preset for preset in map(load_preset, preset_names()) if preset.model == "embedded"]
    assert len(prompts) >= 8
    for preset in prompts:
        assert words.check_prompt(make_tokenizer(), preset.prompt, repertoire()) == [], preset.prompt
        assert words.check_negative_prompt(make_tokenizer(), preset.prompting.negative_prompt, repertoire()) == []
        for view in (preset.prompting.front, preset.prompting.left, preset.prompting.back, preset.prompting.overhead):
            assert words.unknown_words(make_tokenizer(), view) == []


def test_the_kin_of_a_known_word_is_not_known_itself() -> None:
    tokenizer, kin = make_tokenizer(), [word for text in KIN.values() for word in text.split()]
    assert len(kin) == len(set(kin)) and set(kin).isdisjoint({*vocabulary(), *SYNONYMS})
    for known in KIN:
        assert words.unknown_words(tokenizer, known) == []
    assert set(OBJECTS) <= {*KIN, "football helmet", "wizard hat"}


@pytest.mark.parametrize(
    ("prompt", "advice"),
    [
        ("a photo of a tiger", "did you mean cat for 'tiger'?"),
        ("an elefant", "did you mean elephant for 'elefant'?"),
        ("a wizzard", "did you mean wizard hat for 'wizzard'?"),
        ("a silver dragon", "did you mean grey for 'silver', dog for 'dragon'?"),
    ],
)
def test_a_thing_that_it_cannot_make_is_refused_with_the_nearest_and_all_that_it_makes(prompt: str, advice: str) -> None:
    with pytest.raises(SettingsError) as refused:
        words.check_prompt(make_tokenizer(), prompt, repertoire())
    message = str(refused.value)
    assert advice in message and all(name in message for name in OBJECTS)


@pytest.mark.parametrize("prompt", ["a red photo", "the pirate hat", "a DSLR photo of a qwertz", "front view"])
def test_a_prompt_without_a_thing_is_refused(prompt: str) -> None:
    with pytest.raises(SettingsError, match=r"(names nothing|knows no word).*It makes animals: bear, cat"):
        words.check_prompt(make_tokenizer(), prompt, repertoire())


def test_other_words_are_named_with_the_nearest_and_the_run_goes_on() -> None:
    tokenizer = make_tokenizer()
    assert words.check_prompt(tokenizer, "a kitten with a crimson shawl", repertoire()) == []
    (notice,) = words.check_prompt(tokenizer, "a maroon duck at night wearing a cowboy hat and sunglasses", repertoire())
    assert notice == (
        "The model does not know 'maroon', 'night', 'cowboy', 'sunglasses' (did you mean red for 'maroon', hat for 'cowboy'?); "
        "it makes 'a duck wearing a hat'."
    )


def test_a_negative_prompt_says_what_it_avoids() -> None:
    tokenizer = make_tokenizer()
    for clean in ("", "blurry, low quality", "out of focus, oversaturation"):
        assert words.check_negative_prompt(tokenizer, clean, repertoire()) == []
    (notice,) = words.check_negative_prompt(tokenizer, "deformed, blurry", repertoire())
    assert "does not know 'deformed'; it avoids 'blurry'. It can avoid: blurry, out of focus" in notice
    (notice,) = words.check_negative_prompt(tokenizer, "deformed", repertoire())
    assert "it avoids nothing" in notice
