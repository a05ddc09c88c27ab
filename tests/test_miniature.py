"""The embedded model's data is drawn again from its seed, and its training runs end to end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamerxl.guidance import words
from dreamerxl.miniature import __main__ as command
from dreamerxl.miniature import architecture, data, train
from dreamerxl.miniature.accessories import ACCESSORIES
from dreamerxl.miniature.data import (
    CAPTIONS,
    Combinations,
    Renders,
    draw,
    draw_sketch,
    join,
    sketch_batch,
    sketchers,
    spoil,
)
from dreamerxl.miniature.language import FLAWS, MAX_TOKENS, make_tokenizer
from dreamerxl.miniature.objects import OBJECTS
from dreamerxl.miniature.world import COATS, PATTERNS, Thing, is_reserved

NAMES = tuple(Renders.__dataclass_fields__)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four."""
    monkeypatch.setattr(data, "BATCH", 4)


def draw_few(
    count: int,
    seed: int,
    device: object = "cpu",
    pool: object = None,
    combinations: Combinations = "all",
    flawed: bool = True,
    names: tuple[str, ...] = ("duck", "chair", "castle"),
) -> Renders:
    """What ``draw`` gives, of three objects only."""
    sketches = [sketch_batch(name, 0, seed, combinations, flawed) for name in names]
    return join([draw_sketch(sketch).at(torch.arange(count)) for sketch in sketches])


@pytest.mark.usefixtures("small")
def test_batches_are_the_same_from_the_same_seed_and_differ_otherwise() -> None:
    first, again = (draw_sketch(sketch_batch("duck", 0, 1)) for _ in range(2))
    for name in NAMES:
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    for other in (("duck", 0, 2), ("duck", 1, 1), ("castle", 0, 1)):
        assert not torch.equal(first.images, draw_sketch(sketch_batch(*other)).images)
    assert first.images.shape == (4, 3, 128, 128) and first.depths.shape == (4, 1, 128, 128)
    assert first.captions.shape == (4, CAPTIONS, MAX_TOKENS)


@pytest.mark.usefixtures("small")
def test_sets_are_of_every_object_alike_and_smaller_ones_begin_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "OBJECTS", {name: OBJECTS[name] for name in ("duck", "chair", "castle")})
    larger, smaller = draw(6, 3), draw(2, 3)
    assert larger.objects.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    begin = larger.at(torch.tensor([0, 1, 6, 7, 12, 13]))
    for name in NAMES:
        assert torch.equal(getattr(smaller, name), getattr(begin, name)), name


def test_a_process_of_its_own_sketches_the_same() -> None:
    here = sketch_batch("duck", 0, 3)
    with sketchers(1) as pool:
        assert pool is not None
        there = pool.submit(sketch_batch, "duck", 0, 3).result()
    for one, other in zip(here.scenes, there.scenes, strict=True):
        assert np.array_equal(one.table, other.table)
    for name in ("camera", "backgrounds", "labels", "captions", "lengths"):
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert (here.flaws, here.noise_seed) == (there.flaws, there.noise_seed)
    with sketchers(0) as pool:
        assert pool is None


def test_labels_say_what_the_captions_say() -> None:
    tokenizer = make_tokenizer()
    for name in ("dog", "teapot"):
        sketch = sketch_batch(name, 0, 5)
        for labels, rows, lengths, flaw in zip(sketch.labels, sketch.captions, sketch.lengths, sketch.flaws, strict=True):
            for ids, length in zip(rows, lengths, strict=True):
                text = f" {tokenizer.decode(ids[:length])} "
                assert (ids[length:] == 0).all() and (ids[:length] != 0).all()
                assert any(f" {words.readable(tokenizer, noun)} " in text for noun in OBJECTS[name].nouns)
                pattern, worn = list(PATTERNS)[labels[2]], ["", *ACCESSORIES][labels[3]]
                assert pattern == "plain" or pattern in text
                assert not worn or worn in text
                assert not flaw or any(word in text for word in FLAWS[flaw])
                said = [coat for coat in COATS if f" {coat} {name}" in text or f" {coat} {pattern} {name}" in text]
                assert said in ([], [COATS[labels[1]]])


def test_colours_of_the_pictures_are_those_of_the_labels() -> None:
    """Of plain ducks, more pixels lie near the colour that the label names than near any other."""
    from dreamerxl.miniature.solids import PALETTE

    renders = draw_sketch(sketch_batch("duck", 0, 0, flawed=False))
    names = ("red", "green", "blue", "yellow", "purple", "pink", "turquoise")
    palette = torch.tensor([PALETTE[name] for name in names])
    palette = palette / palette.norm(dim=1, keepdim=True)
    checked = 0
    plain = (renders.patterns == 0) & (renders.worn == 0)
    for i in plain.nonzero().flatten().tolist():
        coat = COATS[renders.coats[i]]
        if coat in names:
            pixels = renders.images[i].flatten(1).T[renders.depths[i].flatten() > 0].float()
            votes = (torch.nn.functional.normalize(pixels, dim=1) @ palette.T).argmax(1)
            assert names[int(torch.bincount(votes, minlength=len(names)).argmax())] == coat
            checked += 1
    assert checked > 10


def test_reserved_combinations_are_never_among_the_common_and_always_among_their_own() -> None:
    for name in OBJECTS:
        reserved = [coat for coat in COATS if is_reserved(Thing(name, coat))]
        assert len(reserved) == 1
        common, own = (sketch_batch(name, 0, 9, kind).labels[:, 1] for kind in ("common", "reserved"))
        assert COATS.index(reserved[0]) not in common and set(own) == {COATS.index(reserved[0])}
    assert is_reserved(Thing("duck")) == is_reserved(Thing("duck", OBJECTS["duck"].natural)), "the natural coat counts too"
    assert {coat for coat in COATS if any(is_reserved(Thing(name, coat)) for name in OBJECTS)} == set(COATS)


def test_jumbles_come_in_every_coat_and_nothing_is_said_of_them() -> None:
    sketches = [sketch_batch("", index, 0, flawed=False) for index in range(4)]
    labels = np.concatenate([sketch.labels for sketch in sketches])
    assert set(labels[:, 0]) == {-1} and set(labels[:, 1]) == set(range(len(COATS))) and set(labels[:, 3]) == {0}
    patterned = labels[labels[:, 2] > 0]
    assert len(patterned) > 30 and not {COATS[coat] for coat in patterned[:, 1]} & {"wooden", "golden"}
    assert all(not sketch.lengths.any() for sketch in sketches)
    again, other = (sketch_batch("", 0, seed, flawed=False).scenes[0].table for seed in (0, 1))
    assert np.array_equal(again, sketches[0].scenes[0].table) and not np.array_equal(other, again)


@pytest.mark.usefixtures("small")
def test_what_is_usual_is_taken_out_of_the_judge_s_answers_by_the_data_s_own_shares() -> None:
    renders = join([draw_few(4, 0, flawed=False), draw_few(4, 0, flawed=False, names=data.JUMBLES)])
    object_given_coat, coat_given_object = train.log_shares(renders)
    pairs = list(zip(renders.objects.tolist(), renders.coats.tolist(), strict=True))
    for which, coat in set(pairs):
        of_object, of_coat = [c for o, c in pairs if o == which], [o for o, c in pairs if c == coat and o >= 0]
        share = of_object.count(coat) / len(of_object)
        assert coat_given_object[which, coat].exp().item() == pytest.approx(share, rel=1e-5)
        if which >= 0:
            assert object_given_coat[coat, which].exp().item() == pytest.approx(of_coat.count(which) / len(of_coat), rel=1e-5)
    absent = next(coat for coat in range(len(COATS)) if (0, coat) not in pairs)
    assert coat_given_object[0, absent] == object_given_coat[absent, 0] == train.NEVER_ASKED


def test_flaws_are_rare_are_seen_and_spoil_as_they_say() -> None:
    flaws = [flaw for index in range(8) for flaw in sketch_batch("apple", index, 0).flaws]
    assert 0.02 < np.mean([bool(flaw) for flaw in flaws]) < 0.12 and not any(sketch_batch("apple", 0, 0, flawed=False).flaws)
    image = draw_sketch(sketch_batch("apple", 0, 0, flawed=False)).images[0].float() / 255

    def spoilt(flaw: str, seed: int = 0) -> Tensor:
        return spoil(image, flaw, torch.Generator().manual_seed(seed))

    def edges(x: Tensor) -> float:
        return (x[..., 1:] - x[..., :-1]).square().mean().item()

    def vividness(x: Tensor) -> float:
        return (x - x.mean(0, keepdim=True)).abs().mean().item()

    for flaw in FLAWS:
        assert torch.equal(spoilt(flaw), spoilt(flaw)) and not torch.equal(spoilt(flaw), spoilt(flaw, 1))
        assert (spoilt(flaw) - image).abs().mean() > 0.005
    assert edges(spoilt("blur")) < 0.7 * edges(image) and spoilt("blur").mean() == pytest.approx(image.mean().item(), abs=0.02)
    assert edges(spoilt("noise")) > 2 * edges(image)
    assert spoilt("fade").std() < 0.8 * image.std() and spoilt("dark").mean() < 0.8 * image.mean()
    assert vividness(spoilt("garish")) > 1.3 * vividness(image)


@pytest.mark.usefixtures("small")
def test_a_training_runs_end_to_end_and_goes_on_from_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import StableDiffusionPipeline

    from dreamerxl.miniature.judge import load_judge

    asked: list[tuple[Any, ...]] = []

    def watched(*arguments: Any, **named: Any) -> Renders:
        asked.append(arguments)
        return draw_few(*arguments, **named)

    monkeypatch.setattr(train, "draw", watched)
    monkeypatch.setitem(architecture.UNET, "block_out_channels", (32, 32, 32))
    monkeypatch.setitem(architecture.UNET, "attention_head_dim", 2)
    sizes = {
        "renders": 4,
        "held_out": 2,
        "vae_batch": 2,
        "unet_batch": 2,
        "judge_renders": 4,
        "judge_batch": 4,
        "judge_jumbles": 4,
    }
    recipe = train.Recipe(**sizes, vae_steps=2, unet_steps=8, unet_lr=0.5, judge_steps=2)
    first, second = tmp_path / "first", tmp_path / "second"
    train.train(recipe, first, device="cpu")
    train.train(recipe, second, start=first, stages=("unet",), device="cpu")
    seeds = {arguments[1] for arguments in asked}
    assert len(seeds) == 4, "the model, the judge and what each is tested on come from four seeds"

    judge = load_judge(first / "judge")
    assert judge.recognise(torch.rand(1, 3, 128, 128)).objects[0] in OBJECTS
    before, after = (StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32) for folder in (first, second))
    assert torch.equal(before.vae.encoder.conv_in.weight, after.vae.encoder.conv_in.weight)
    assert not torch.equal(before.unet.conv_in.weight, after.unet.conv_in.weight)
    after.set_progress_bar_config(disable=True)
    picture = after(["a red duck"], num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 128, 128) and torch.isfinite(picture).all()


@pytest.mark.usefixtures("small")
def test_a_training_needs_only_the_stage_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "draw", draw_few)
    recipe = train.Recipe(held_out=2, judge_renders=4, judge_batch=4, judge_jumbles=4, judge_steps=2)
    train.train(recipe, tmp_path, stages=("judge",), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judge"]


@pytest.mark.usefixtures("small")
def test_prompts_of_a_batch_are_caption_view_and_depth_in_a_row() -> None:
    from dreamerxl.miniature.architecture import make_networks

    networks, renders = make_networks(0), draw_few(4, 0, flawed=False)
    recipe = train.Recipe(depth_share=0.5, drop_prompt=0.25)
    batches = train.Batches(networks, renders, recipe, 64)
    torch.manual_seed(0)
    latents, t, ids, weights = batches.draw()
    assert latents.shape == (64, 16, 16, 16) and ids.shape == (64, 3, MAX_TOKENS)
    assert torch.allclose(weights.sum(1), torch.ones(64)) and t.min() >= 0 and t.max() < 1000
    tokenizer = networks.tokenizer
    said = zip(renders.captions.flatten(0, 1), renders.lengths.flatten(), strict=True)
    captions = {tuple(row[:length].tolist()) for row, length in said}
    suffixes = {" ".join(f"{view} {depth}".split()) for view in train.SUFFIXES for depth in ("", "depth map")}
    dropped = 0
    for rows in ids:
        for row in rows.tolist():
            end = row.index(tokenizer.eos_token_id)
            assert set(row[end + 1 :]) <= {tokenizer.pad_token_id}
            if end == 0:
                dropped += 1
                continue
            tails = [row[i:end] for i in range(end + 1) if tuple(row[:i]) in captions]
            assert any(tokenizer.decode(tail) in suffixes for tail in tails)
    assert 0.1 < dropped / 192 < 0.4


def test_joining_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BATCH", 2)
    a, b = (draw_sketch(sketch_batch(name, 0, 0)) for name in ("duck", "chair"))
    both = join([a, b])
    assert len(both) == 4 and torch.equal(both.at(torch.tensor([2, 3])).images, b.images)
    assert both.to("cpu").objects.tolist() == [*a.objects.tolist(), *b.objects.tolist()]


def test_the_catalogue_is_drawn_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sheet.png"
    monkeypatch.setattr(command, "OBJECTS", {name: OBJECTS[name] for name in ("duck", "house")})
    monkeypatch.setattr(sys, "argv", ["miniature", "renders", "--out", str(out)])
    command.main()
    with Image.open(out) as sheet:
        tiles = np.asarray(sheet).reshape(2, 128, 13, 128, 3).transpose(0, 2, 1, 3, 4).reshape(26, -1)
    assert len({tile.tobytes() for tile in tiles}) == 26, "no two pictures are the same"


def test_the_command_line_hands_the_recipe_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(command, "train", lambda *arguments: handed.append(arguments))
    stages, limits = "--stages unet judge --unet-steps 7 --unet-lr 0.5", "--whole-limit 60 --device cpu --workers 2"
    monkeypatch.setattr(sys, "argv", f"miniature train --out B --start A {stages} {limits}".split())
    command.main()
    recipe = train.Recipe(unet_steps=7, unet_lr=0.5)
    assert handed == [(recipe, Path("B"), Path("A"), train.Limits(whole=60.0), ["unet", "judge"], "cpu", 2)]
