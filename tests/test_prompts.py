"""View-dependent prompts: shares of the directions, phrases, and embeddings mixed by azimuth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import clip_tokenizer, word_tokenizer

from dreamerxl.config import Prompting
from dreamerxl.errors import SettingsError
from dreamerxl.guidance import words
from dreamerxl.guidance.conditioning import Conditioning, join
from dreamerxl.guidance.prompts import embed_prompt, phrase, view_weights

OVERHEAD = Prompting(overhead="overhead view")


class Letters:
    """Embeds a text as its length and its count of commas, and keeps what it was asked."""

    zeros_for_empty = False

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, prompts: list[str]) -> Conditioning:
        self.asked.append(prompts)
        values = torch.tensor([[float(len(text)), float(text.count(","))] for text in prompts])
        return Conditioning(values[:, None, :], values * 10, torch.full((len(prompts), 6), 32.0))


def weights(prompting: Prompting, azimuth: float, elevation: float = 0.0) -> list[float]:
    return view_weights(prompting, torch.tensor([azimuth]), torch.tensor([elevation]))[0].tolist()


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [
        (0, [1, 0, 0, 0, 0]),
        (90, [0, 1, 0, 0, 0]),
        (180, [0, 0, 1, 0, 0]),
        (-180, [0, 0, 1, 0, 0]),
        (-90, [0, 0, 0, 1, 0]),
        (270, [0, 0, 0, 1, 0]),
        (45, [0.5, 0.5, 0, 0, 0]),
        (-30, [2 / 3, 0, 0, 1 / 3, 0]),
        (157.5, [0, 0.25, 0.75, 0, 0]),
        (-157.5, [0, 0, 0.75, 0.25, 0]),
        (720 + 45, [0.5, 0.5, 0, 0, 0]),
    ],
)
def test_azimuth_interpolates_between_its_two_neighbours(azimuth: float, expected: list[float]) -> None:
    assert weights(Prompting(), azimuth) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("elevation", "share"), [(-15, 0), (30, 0), (45, 0.5), (52.5, 0.75), (60, 1), (89, 1)])
def test_overhead_share_rises_from_30_to_60_degrees(elevation: float, share: float) -> None:
    assert weights(OVERHEAD, 45, elevation) == pytest.approx([(1 - share) / 2, (1 - share) / 2, 0, 0, share], abs=1e-6)
    assert weights(Prompting(), 45, elevation)[4] == 0


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-89, 89)), min_size=1, max_size=3))
def test_shares_are_a_partition(views: list[tuple[float, float]]) -> None:
    azimuth, elevation = torch.tensor(views).T
    shares = view_weights(OVERHEAD, azimuth, elevation)
    assert shares.shape == (len(views), 5)
    assert bool((shares >= 0).all()) and torch.allclose(shares.sum(1), torch.ones(len(views)), atol=1e-5)


def test_phrase_joins_what_is_there() -> None:
    assert phrase("a duck", "side view") == "a duck, side view"
    assert phrase("a duck", "") == "a duck"
    assert phrase("a duck", "side view", "depth map") == "a duck, side view, depth map"


def test_embeddings_are_mixed_by_view() -> None:
    prompting = Prompting(front="ffff", left="l", back="b", right="rr", depth="d,d,d", negative_prompt="ugly, bad")
    encoder = Letters()
    embeddings = embed_prompt(encoder, "a duck", prompting)
    assert len(encoder.asked) == 1 and len(set(encoder.asked[0])) == len(encoder.asked[0])

    views = embeddings.conditioning(torch.tensor([0.0, 45.0, -90.0]), torch.zeros(3))
    front, left, right = len("a duck, ffff"), len("a duck, l"), len("a duck, rr")
    assert views.hidden[:, 0, 0].tolist() == pytest.approx([front, (front + left) / 2, right])
    assert views.pooled is not None and views.pooled[:, 0].tolist() == pytest.approx([10 * front, 5 * (front + left), 10 * right])
    assert views.time_ids is not None and bool((views.time_ids == 32).all())

    depth = embeddings.conditioning(torch.tensor([0.0]), torch.zeros(1), depth=True)
    assert depth.hidden[0, 0, 1].item() == 4  # one comma before the view, one before the depth phrase, two inside it
    assert embeddings.negative.hidden[0, 0, 0].item() == len("ugly, bad") and embeddings.inversion.hidden[0, 0, 0].item() == 0
    assert not embeddings.inversion_is_negative and embed_prompt(encoder, "a duck", Prompting()).inversion_is_negative


def test_rows_and_join_undo_each_other() -> None:
    rows = Letters().embed(["a", "bb", "ccc"])
    again = join([rows.rows(0), rows.rows([1]), rows.rows(slice(2, 3))])
    assert torch.equal(again.hidden, rows.hidden) and len(again) == 3
    assert again.pooled is not None and rows.pooled is not None and torch.equal(again.pooled, rows.pooled)
    assert join([Conditioning(rows.hidden)]).pooled is None


def test_word_level_vocabulary_names_what_it_knows() -> None:
    tokenizer = word_tokenizer()
    assert "duck" in words.known_words(tokenizer) and "<unk>" not in words.known_words(tokenizer)
    assert words.unknown_words(tokenizer, "A red ZEBRA, (duck) zebra quagga!") == ["zebra", "quagga"]
    assert words.readable(tokenizer, "A red ZEBRA, duck!") == "a red duck"
    assert words.readable(tokenizer, "") == ""


def test_byte_pairs_read_everything() -> None:
    tokenizer = clip_tokenizer()
    assert words.known_words(tokenizer) == [] and words.unknown_words(tokenizer, "zebra") == []
    assert words.readable(tokenizer, "A ZEBRA, (duck)") == "A ZEBRA, (duck)"
    assert words.check_prompt(tokenizer, "a zebra") == []


def test_prompts_that_cannot_be_used_get_a_sentence() -> None:
    tokenizer = word_tokenizer()
    for empty in ("", "  \n\t"):
        with pytest.raises(SettingsError, match="prompt is empty"):
            words.check_prompt(tokenizer, empty)
    with pytest.raises(SettingsError, match=r"knows no word.*'a zebra'.*duck"):
        words.check_prompt(tokenizer, "a zebra")
    with pytest.raises(SettingsError, match=r"did you mean chair for 'chairr'\?.*It knows back, bear"):
        words.check_prompt(tokenizer, "a chairr")
    with pytest.raises(SettingsError, match="knows no word"):
        words.check_prompt(tokenizer, "!!! ???")


def test_prompts_that_lose_something_get_a_notice() -> None:
    tokenizer = word_tokenizer()
    assert words.check_prompt(tokenizer, "a red duck") == []
    (notice,) = words.check_prompt(tokenizer, "a red zebra duck")
    assert notice == "The model does not know 'zebra'; it makes 'a red duck'."
    (notice,) = words.check_prompt(tokenizer, "red " * 30 + "duck")
    assert "32 tokens" in notice and "reads 12" in notice


def test_a_model_of_few_things_asks_for_one_of_them() -> None:
    tokenizer = word_tokenizer()
    few = words.Repertoire({"things": ("duck", "chair")}, {"colours": ("red",)}, ("duck", "chair"), related={"stool": "chair"})
    assert words.check_prompt(tokenizer, "a photo of a red chair", few) == []
    for prompt in ("a photo of a zebra", "a red photo", "a duckchair"):
        with pytest.raises(SettingsError, match=r"(names nothing|knows no word).*It makes things: duck, chair\."):
            words.check_prompt(tokenizer, prompt, few)
    (notice,) = words.check_prompt(tokenizer, "a redd duck on a stool", few)
    advice = "(did you mean red for 'redd', chair for 'stool'?)"
    assert notice == f"The model does not know 'redd', 'stool' {advice}; it makes 'a duck'."


def test_a_negative_prompt_is_told_what_it_lacks() -> None:
    tokenizer = word_tokenizer()
    assert words.check_negative_prompt(tokenizer, "") == words.check_negative_prompt(tokenizer, "red, green") == []
    (notice,) = words.check_negative_prompt(tokenizer, "ugly red")
    assert notice == "Of the negative prompt, the model does not know 'ugly'; it avoids 'red'."
    assert words.check_negative_prompt(clip_tokenizer(), "ugly") == []
