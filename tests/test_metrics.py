"""The paper's metrics: equal to transformers' and to the lpips package's own numbers, and what is said without weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lpips_reference import SIZES, picture_pairs, random_state
from safetensors.torch import save_file
from tiny_models import clip_tokenizer

from dreamerxl.__main__ import main
from dreamerxl.errors import WeightsError
from dreamerxl.lab import evaluate
from dreamerxl.lab.clip_score import MODELS, ClipScorer, load_clip, preprocess, read_clip
from dreamerxl.lab.lpips import Lpips, load_lpips, neighbour_distance, read_lpips
from dreamerxl.miniature.judge import load_judge

GOLDEN = json.loads((Path(__file__).parent / "data" / "lpips.json").read_text(encoding="utf-8"))


def renders(count: int, height: int = 60, width: int = 60) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def golden_weights(net: str) -> dict[str, torch.Tensor]:
    return random_state({name: tuple(shape) for name, shape in GOLDEN[net]["shapes"].items()})


@pytest.fixture(scope="module")
def lpips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lpips")
    for net in ("vgg", "alex"):
        state = golden_weights(net)
        again = {name.replace("lin", "lins.", 1): value.clone() for name, value in state.items() if name.startswith("lin")}
        save_file(state | again, folder / f"{net}.safetensors")  # the package's state names its heads twice
    return folder


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_says_what_the_package_said(net: str, lpips_folder: Path) -> None:
    """The numbers of lpips 0.1.4, kept by tests/lpips_reference.py."""
    model = read_lpips(lpips_folder / f"{net}.safetensors", net)  # pyright: ignore[reportArgumentType]
    for size, expected in zip(SIZES, GOLDEN[net]["distances"], strict=True):
        found = model(*picture_pairs(size))
        assert found.shape == (3,) and torch.allclose(found, torch.tensor(expected), rtol=1e-5, atol=0)
        a, _ = picture_pairs(size)
        assert model(a, a).abs().max() == 0


def test_neighbours_are_those_of_a_closed_turn(lpips_folder: Path) -> None:
    model = read_lpips(lpips_folder / "alex.safetensors", "alex")
    views = torch.rand(10, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    by_hand = [model(views[k : k + 1], views[(k + 1) % 10 : (k + 1) % 10 + 1]).item() for k in range(10)]
    assert neighbour_distance(model, views) == pytest.approx(sum(by_hand) / 10, rel=1e-5)


def test_weights_of_other_names_are_read_by_order_and_others_are_refused(lpips_folder: Path, tmp_path: Path) -> None:
    own = golden_weights("alex")
    kernels = sorted((name for name in own if name.endswith("weight") and own[name].shape[0] > 1), key=_place)
    renamed = {f"features.{3 * k}.{kind}": own[name[:-6] + kind] for k, name in enumerate(kernels) for kind in ("weight", "bias")}
    renamed |= {f"heads.{k}.weight": own[f"lin{k}.model.1.weight"] for k in range(5)}
    save_file(renamed, tmp_path / "renamed.safetensors")
    pair = picture_pairs((64, 64))
    expected = read_lpips(lpips_folder / "alex.safetensors", "alex")(*pair)
    assert torch.equal(read_lpips(tmp_path / "renamed.safetensors", "alex")(*pair), expected)
    with pytest.raises(WeightsError, match="5 convolutions and 5 heads; vgg has 13 and 5"):
        read_lpips(lpips_folder / "alex.safetensors", "vgg")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_lpips(tmp_path / "none.safetensors", "alex")
    save_file({**own, "net.slice1.0.bias": torch.zeros(7)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="do not fit alex"):
        read_lpips(tmp_path / "odd.safetensors", "alex")


def _place(name: str) -> int:
    return int(name.split(".")[-2])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights whose pictures are 28 px."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    folder, tokenizer = tmp_path_factory.mktemp("clip"), clip_tokenizer()
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 24}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=len(tokenizer), **shared, **ends)
    vision = CLIPVisionConfig(image_size=28, patch_size=14, **shared)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", [(60, 60), (45, 77), (28, 28)])
def test_pictures_are_prepared_as_transformers_does(shape: tuple[int, int]) -> None:
    from transformers.models.clip import CLIPImageProcessorPil

    views = renders(3, *shape)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})(
        list(views), return_tensors="pt"
    ).pixel_values
    assert (preprocess(views, 28) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("prompt", ["a red duck", "a " + "very " * 40 + "long prompt"])
def test_clip_score_is_transformers_own_cosine(clip_folder: Path, prompt: str) -> None:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip import CLIPImageProcessorPil

    views = renders(20)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)([prompt], truncation=True, max_length=77, return_tensors="pt")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    with torch.no_grad():
        out = model(**tokens, pixel_values=processor(list(views), return_tensors="pt").pixel_values)
    expected = (out.logits_per_image / model.logit_scale.exp()).mean().item()
    scorer = load_clip(str(clip_folder))
    assert isinstance(scorer, ClipScorer) and scorer.score(views, prompt) == pytest.approx(expected, abs=1e-5)


def test_a_folder_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_clip(tmp_path)


def test_absent_weights_leave_their_metrics_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    metrics, absent = evaluate.make_metrics()
    assert set(metrics) == set(evaluate.EMBEDDED) and len(absent) == 4
    assert absent[0].startswith("CLIP-L/14 is left out.") and f"'hf download {MODELS['clip']}'" in absent[0]
    assert "--lpips" in absent[3]
    with pytest.raises(WeightsError, match="downloads are off"):
        load_lpips("vgg", download=False)


def test_the_embedded_metrics_are_what_their_names_say() -> None:
    views, judge = renders(4, 128, 128), load_judge()
    images = torch.from_numpy(views).movedim(-1, 1).float() / 255
    assert evaluate.judge_score(views, "a red duck") == pytest.approx(judge.score(images, "a red duck").mean().item(), abs=1e-6)
    assert evaluate.judge_score(views, "a zeppelin made of cheese") is None
    with torch.no_grad():
        e = judge.embed_images(judge.features(images))
    cosines = [torch.cosine_similarity(e[k], e[(k + 1) % 4], dim=0).item() for k in range(4)]
    assert evaluate.judge_distance(views, "") == pytest.approx(1 - sum(cosines) / 4, abs=1e-5)
    flat = np.zeros((2, 8, 8, 3), np.uint8)
    flat[1] = 51
    assert evaluate.pixel_distance(flat, "") == pytest.approx(0.2)


def test_runs_are_scored_side_by_side(
    tmp_path: Path, lpips_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_training import fake_make_trainer

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = ["run", "--prompt", "a red duck", "--iterations", "2", "--no-video", "--set", "views.resolution=64"]
    assert main([*asked, "--out", str(tmp_path / "one")], fake_make_trainer()) == 0
    capsys.readouterr()
    out = tmp_path / "scores.json"
    options = ["--views", "4", "--size", "64", "--lpips", str(lpips_folder), "--json", str(out)]
    assert main(["evaluate", str(tmp_path / "one"), *options]) == 0
    said = capsys.readouterr()
    assert "CLIP-L/14 is left out." in said.err
    lines = said.out.splitlines()
    assert lines[0].split("  ")[0] == "run" and "A-LPIPS VGG ↓" in lines[0] and "judge ↑" in lines[0]
    assert [line.split()[1] for line in lines[1:3]] == ["ISM", "TSM"]
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["views"] == 4 and len(kept["scores"]) == 2 and kept["scores"][0]["values"]["A-LPIPS Alex"] > 0
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
    assert "holds no readable run.json" in capsys.readouterr().err


def test_lpips_has_the_layers_of_its_backbones() -> None:
    assert sum(p.numel() for p in Lpips("alex").slices.parameters()) == 2_469_696
    assert sum(p.numel() for p in Lpips("vgg").slices.parameters()) == 14_714_688
