"""The adapter over diffusers' parts, against diffusers' own pipelines; and what happens to names that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.errors import DeviceError, SettingsError, WeightsError
from dreamerxl.guidance import models
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.conditioning import join
from dreamerxl.guidance.models import load_guidance, pick_device, resolve

KINDS = ("sd", "sd-v", "sdxl")


@pytest.fixture(scope="module")
def loaded(model_folders: dict[str, Path]) -> dict[str, Guidance]:
    return {kind: load_guidance(str(folder), "cpu") for kind, folder in model_folders.items()}


def pipeline(kind: str, folder: Path) -> Any:
    if kind == "sdxl":
        pipe: Any = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("kind", KINDS)
def test_embeds_prompts_as_the_pipeline_does(kind: str, loaded: dict[str, Guidance], model_folders: dict[str, Path]) -> None:
    prompts = ["a red duck", "a blue chair, back view", ""]
    ours = loaded[kind].embed(prompts)
    theirs = pipeline(kind, model_folders[kind]).encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(ours.hidden, theirs[0])
    if kind == "sdxl":
        assert ours.pooled is not None and torch.equal(ours.pooled, theirs[2])
        assert ours.time_ids is not None and ours.time_ids.tolist() == [[32, 32, 0, 0, 32, 32]] * 3
    else:
        assert ours.pooled is None and ours.time_ids is None


@pytest.mark.parametrize("kind", KINDS)
def test_samples_what_the_pipeline_samples(kind: str, loaded: dict[str, Guidance], model_folders: dict[str, Path]) -> None:
    guidance, count, scale, prompts = loaded[kind], 6, 5.0, ["a red duck", "a blue chair", "a bear"]
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(kind, model_folders[kind])(
        prompt=prompts,
        negative_prompt=["a photo"] * 3,
        latents=latents,
        num_inference_steps=count,
        guidance_scale=scale,
        output_type="pt",
    ).images
    scheduler = DDIMScheduler.from_pretrained(model_folders[kind], subfolder="scheduler")
    scheduler.set_timesteps(count)
    conditioning, x = join([guidance.embed(["a photo"] * 3), guidance.embed(prompts)]), latents
    for t in scheduler.timesteps.tolist():
        eps_negative, eps_cond = guidance.predict(torch.cat([x, x]), torch.full((6,), t), conditioning).chunk(2)
        eps = eps_negative + scale * (eps_cond - eps_negative)
        x = ddim_step(guidance.schedule, x, eps, t, max(t - 1000 // count, 0))
    assert torch.allclose(guidance.decode(x), theirs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_predicted_independently_at_their_own_timesteps(kind: str, loaded: dict[str, Guidance]) -> None:
    guidance = loaded[kind]
    x, t = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 400, 990])
    rows = guidance.embed(["a red duck", "", "a chair"])
    together = guidance.predict(x, t, rows)
    apart = torch.cat([guidance.predict(x[i : i + 1], t[i : i + 1], rows.rows(i)) for i in range(3)])
    assert torch.allclose(together, apart, atol=1e-5)
    assert not together.requires_grad


def test_encodes_the_mean_of_the_posterior_with_gradient(loaded: dict[str, Guidance]) -> None:
    guidance = loaded["sd"]
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    latents = guidance.encode(images)
    assert latents.shape == (3, guidance.latent_channels, guidance.latent_size, guidance.latent_size) == (3, 4, 16, 16)
    assert torch.allclose(latents, guidance.vae.encode(images * 2 - 1).latent_dist.mean * 1.3, atol=1e-6)
    (gradient,) = torch.autograd.grad(latents.square().sum(), images)
    step = torch.zeros_like(images)
    step[1, 2, 7, 9] = 1e-2
    with torch.no_grad():
        slope = (guidance.encode(images + step).square().sum() - guidance.encode(images - step).square().sum()) / 2e-2
    assert gradient[1, 2, 7, 9].item() == pytest.approx(slope.item(), rel=2e-2)
    assert all(not p.requires_grad for p in guidance.vae.parameters())


def test_images_of_other_sizes_are_resized(loaded: dict[str, Guidance]) -> None:
    guidance = loaded["sd"]
    flat = torch.full((1, 3, 1, 1), 0.25)
    assert torch.allclose(guidance.encode(flat.expand(1, 3, 48, 20)), guidance.encode(flat.expand(1, 3, 32, 32)), atol=1e-5)
    decoded = guidance.decode(torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 9)
    assert decoded.shape == (2, 3, 32, 32) and decoded.min() >= 0 and decoded.max() <= 1


def test_words_that_the_model_lacks_are_left_out(loaded: dict[str, Guidance]) -> None:
    guidance = loaded["sd"]
    assert torch.equal(guidance.embed(["a red zebra duck"]).hidden, guidance.embed(["a red duck"]).hidden)
    assert guidance.unknown_words("a red zebra") == ["zebra"] and "duck" in guidance.known_words()
    assert "'zebra'" in guidance.check_prompt("a red zebra")[0]
    assert loaded["sdxl"].unknown_words("a red zebra") == [] and loaded["sdxl"].known_words() == []


@pytest.mark.skipif(not (models.EMBEDDED / "model_index.json").is_file(), reason="the embedded model is not trained yet")
def test_the_embedded_model_loads_offline_and_names_what_it_can_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    guidance = load_guidance("embedded", "cpu", download=False)
    assert (guidance.resolution, guidance.latent_channels, guidance.latent_size) == (128, 16, 16)
    assert guidance.check_prompt("a DSLR photo of a yellow duck") == []
    with pytest.raises(SettingsError, match=r"'a DSLR photo of a dragon' names nothing.*mushroom.*purple"):
        guidance.check_prompt("a DSLR photo of a dragon")


def test_auto_says_what_it_took_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = resolve("auto", "cpu")
    assert choice.source == str(models.EMBEDDED) and "no CUDA card" in choice.reason
    monkeypatch.setattr(models, "_is_cached", lambda repository: False)
    choice = resolve("auto", "cuda")
    assert choice.source == str(models.EMBEDDED) and "not in the local hub cache" in choice.reason
    monkeypatch.setattr(models, "_is_cached", lambda repository: repository == models.SDXL)
    choice = resolve("auto", "cuda")
    assert (choice.kind, choice.source) == ("hub", models.SDXL) and "CUDA card" in choice.reason


def test_names_stand_for_folders_files_and_hub_models(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    assert resolve("embedded", "cpu").source == str(models.EMBEDDED)
    assert resolve(str(model_folders["sd"]), "cpu").kind == "folder"
    assert resolve("owner/some-model_1.0", "cpu").kind == "hub"
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert resolve(str(tmp_path / "a.safetensors"), "cpu").kind == "file"


HOSTILE = ["", "  ", "nope", "a/b/c", "../x", "x/../../etc", "~/x", "http://host/a", "a\\b", "x\0y", "a\nb", "-a/b", "a" * 2000]


@pytest.mark.parametrize("name", [*HOSTILE, "/nope/a.safetensors"])
def test_hostile_names_get_a_sentence(name: str) -> None:
    with pytest.raises(WeightsError, match=r"(?s)^(The|There).*\.$"):
        load_guidance(name, "cpu", download=False)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"not a \.safetensors file"):
        load_guidance(str(pickled), "cpu")
    fake = tmp_path / "model.safetensors"
    fake.write_bytes(b"\x80\x04garbage")
    with pytest.raises(WeightsError, match=r"is not a \.safetensors file"):
        load_guidance(str(fake), "cpu")


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_half_folders_are_named(part: str, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    folder = copy(model_folders["sd"], tmp_path / "half")
    shutil.rmtree(folder / part)
    with pytest.raises(WeightsError, match=f"half is incomplete: {part}.*missing"):
        load_guidance(str(folder), "cpu")


def test_broken_folders_get_a_sentence(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match=r"not a diffusers model: it has no model_index\.json"):
        load_guidance(str(empty), "cpu")
    (empty / "model_index.json").write_text("[1]")
    with pytest.raises(WeightsError, match="not a table"):
        load_guidance(str(empty), "cpu")

    pickled = copy(model_folders["sd"], tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickled, which is not read"):
        load_guidance(str(pickled), "cpu")

    torn = copy(model_folders["sd"], tmp_path / "torn")
    weights = torn / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"vae/diffusion_pytorch_model\.safetensors of the model torn .*hardly begun"):
        load_guidance(str(torn), "cpu")
    weights = torn / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"unet/diffusion_pytorch_model.* is cut short: .* of .* are there\. Delete it"):
        load_guidance(str(torn), "cpu")


def test_other_kinds_of_model_are_refused(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    foreign = copy(model_folders["sd"], tmp_path / "foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps({**index, "unet": ["evil", "Payload"]}))
    with pytest.raises(WeightsError, match="has Payload as its unet, where UNet2DConditionModel is needed"):
        load_guidance(str(foreign), "cpu")

    inpainting = copy(model_folders["sd"], tmp_path / "inpainting")
    config = json.loads((inpainting / "unet" / "config.json").read_text())
    (inpainting / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    with pytest.raises(WeightsError, match="takes 9 channels and gives 4"):
        load_guidance(str(inpainting), "cpu")


def test_asking_for_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="device is 'cuda'"):
        pick_device("cuda")
