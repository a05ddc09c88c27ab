"""The judge: what it is made of, what it says, how it is kept; and, once it is trained, how often it is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dreamerxl.miniature import data
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.data import draw
from dreamerxl.miniature.judge import HEADS, SIDES, UNSEEN, WEIGHTS, Judge, Verdict, load_judge, save_judge
from dreamerxl.miniature.language import describe
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.train import augment, make_judge
from dreamerxl.miniature.world import COATS, PATTERNS, Thing, is_reserved

trained = pytest.mark.skipif(not (WEIGHTS / "model.safetensors").is_file(), reason="the judge is not trained yet")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return make_judge(0).eval().requires_grad_(False)


def pictures(count: int, size: int = 128) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_scores_are_cosines_of_unit_vectors(judge: Judge) -> None:
    images = pictures(3)
    scores = judge.score(images, "a red duck")
    with torch.no_grad():
        a = judge.image_projection(judge.features(images))
    b = judge.embed_prompts(["a red duck"])
    assert scores.shape == (3,)
    assert torch.allclose(scores, F.cosine_similarity(a, b), atol=1e-5)


def test_a_prompt_is_read_without_the_words_that_it_lacks_and_without_what_is_after_its_end(judge: Judge) -> None:
    known, more = judge.embed_prompts(["a red duck", "a red zeppelin duck"])
    assert torch.equal(known, more)
    beside_longer, _ = judge.embed_prompts(["a red duck", "a blue house on a wooden table"])
    assert torch.allclose(beside_longer, known, atol=1e-6)
    assert not torch.allclose(known, judge.embed_prompts(["a green duck"])[0], atol=1e-3)


def test_a_verdict_names_the_likeliest_of_each_head(judge: Judge) -> None:
    images = pictures(4)
    verdict = judge.recognise(images)
    assert {"object": 38, "coat": 14, "pattern": 4, "worn": 1 + len(ACCESSORIES), "side": 5} == HEADS
    with torch.no_grad():
        features = judge.features(images)
        answers = {name: head(features) for name, head in judge.heads.items()}
    for i in range(4):
        assert verdict.objects[i] == list(OBJECTS)[int(answers["object"][i].argmax())]
        assert verdict.patterns[i] == list(PATTERNS)[int(answers["pattern"][i].argmax())]
        assert verdict.worn[i] == ["", *ACCESSORIES][int(answers["worn"][i].argmax())]
    assert torch.allclose(verdict.sides.sum(1), torch.ones(4)) and verdict.sides.shape == (4, len(SIDES))


def test_a_coat_that_was_never_seen_on_the_object_is_named_where_it_is_nearly_as_likely() -> None:
    judge = make_judge(1).eval()
    images, never = pictures(1), next(coat for coat in COATS if is_reserved(Thing("castle", coat)))
    other = next(coat for coat in COATS if coat != never)

    def named(lead: float) -> str:
        with torch.no_grad():
            for name, options in (("object", {"castle": 9.0}), ("coat", {never: 4.0, other: 4.0 + lead})):
                judge.heads[name].weight.zero_()
                names = list(OBJECTS) if name == "object" else list(COATS)
                judge.heads[name].bias.copy_(torch.tensor([options.get(one, 0.0) for one in names]))
        return judge.recognise(images).coats[0]

    assert (named(UNSEEN - 0.1), named(UNSEEN + 0.1)) == (never, other)
    with torch.no_grad():
        judge.heads["object"].bias.copy_(torch.tensor([9.0 * (name == "duck") for name in OBJECTS]))
    assert not is_reserved(Thing("duck", never)) and judge.recognise(images).coats[0] == other


def test_pictures_of_other_sizes_are_judged_as_if_they_were_made_smaller(judge: Judge) -> None:
    small = pictures(2)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(judge.score(large, "a duck"), judge.score(small, "a duck"), atol=0.02)


def test_right_means_both_object_and_coat() -> None:
    verdict = Verdict(["duck", "duck", "cat"], ["red", "blue", "red"], ["plain"] * 3, [""] * 3, torch.zeros(3, 5))
    assert verdict.right("duck", "red") == [True, False, False]


def test_a_judge_is_kept_in_half_precision_and_comes_back(judge: Judge, tmp_path: Path) -> None:
    save_judge(judge, tmp_path)
    again = load_judge(tmp_path)
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for key, value in judge.state_dict().items():
        kept = value.half().float() if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[key], kept), key
    count = sum(p.numel() for p in judge.parameters())
    assert 2 * count <= (tmp_path / "model.safetensors").stat().st_size < 2 * count + 100_000
    assert torch.allclose(again.score(pictures(2), "a red duck"), judge.score(pictures(2), "a red duck"), atol=5e-3)


def test_a_judge_of_another_world_is_refused(judge: Judge, tmp_path: Path) -> None:
    save_judge(judge, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["objects"] == list(OBJECTS)
    config["objects"].reverse()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="trained on other objects or words"):
        load_judge(tmp_path)


def test_a_judge_has_its_own_weights_from_its_seed() -> None:
    first, again, other = make_judge(0), make_judge(0), make_judge(1)
    assert torch.equal(first.stem.weight, again.stem.weight) and not torch.equal(first.stem.weight, other.stem.weight)


def test_augmenting_changes_the_background_and_the_sharpness_but_not_what_is_shown() -> None:
    count = 64
    color = torch.tensor([0.7, 0.4, 0.2])[None, :, None, None].expand(count, 3, 128, 128)
    place = torch.linspace(-1, 1, 128)
    ball = (torch.hypot(place[:, None], place) < 0.6).float().expand(count, 1, 128, 128)
    images = color * ball + 0.5 * (1 - ball)
    torch.manual_seed(0)
    first = augment(images, ball)
    torch.manual_seed(0)
    assert torch.equal(first, augment(images, ball))
    assert first.shape == images.shape and first.min() >= 0 and first.max() <= 1
    middle, corner = first[:, :, 48:80, 48:80], first[:, :, :6, :6].mean((2, 3))
    seen = middle.mean((2, 3))
    assert ((seen[:, 0] > seen[:, 1] + 0.1) & (seen[:, 1] > seen[:, 2] + 0.05)).all(), "it is still orange"
    changed = (corner - 0.5).abs().amax(1) > 0.15
    assert 0.25 < changed.float().mean() < 0.75, "half of the backgrounds are others"
    noise = middle.std((2, 3)).mean(1)
    assert noise.max() > 3 * noise.min()


@trained
@pytest.mark.parametrize("combinations", ["common", "reserved"])
def test_the_trained_judge_names_renders_that_it_never_saw(combinations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BATCH", 8)
    renders = draw(8, 987_654, combinations=combinations, flawed=False)  # pyright: ignore[reportArgumentType]
    verdict = load_judge().recognise(renders.images.float() / 255)
    right = [
        seen == list(OBJECTS)[name] and coat == COATS[color]
        for seen, coat, name, color in zip(verdict.objects, verdict.coats, renders.objects, renders.coats, strict=True)
    ]
    assert sum(right) / len(right) > {"common": 0.95, "reserved": 0.90}[combinations]  # of 304 pictures


@trained
def test_the_trained_judge_scores_the_right_prompt_above_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BATCH", 4)
    renders = draw(1, 123_456, flawed=False)
    judge = load_judge()
    pairs = zip(renders.objects, renders.coats, strict=True)
    prompts = [describe(Thing(list(OBJECTS)[name], COATS[coat])) for name, coat in pairs]
    scores = torch.stack([judge.score(renders.images.float() / 255, prompt) for prompt in prompts], 1)  # [picture, prompt]
    assert (scores.argmax(1) == torch.arange(len(prompts))).float().mean() > 0.9
