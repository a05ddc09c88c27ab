"""The adapter over diffusers' parts, against diffusers' own pipelines; and what happens to names that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from dreamerxl.config import Prompting, Weights
from dreamerxl.diffusion.ddim import ddim_step
from dreamerxl.distillation.queries import Guided
from dreamerxl.errors import DeviceError, SettingsError, WeightsError
from dreamerxl.guidance import models
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.conditioning import join
from dreamerxl.guidance.denoiser import Denoiser
from dreamerxl.guidance.models import load_guidance, pick_device, resolve
from dreamerxl.guidance.prompts import embed_prompt

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
@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("negative", [None, "", "a blue photo"])
def test_a_run_is_guided_as_the_pipeline_guides(
    kind: str, scale: float, negative: str | None, loaded: dict[str, Guidance], model_folders: dict[str, Path]
) -> None:
    """The whole way of a run, from the prompt to the guided prediction, in place of the pipeline's own."""
    guidance, count, prompt = loaded[kind], 5, "a red duck"
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    theirs = pipeline(kind, model_folders[kind])(
        prompt=prompt,
        negative_prompt=negative,
        latents=latents,
        num_inference_steps=count,
        guidance_scale=scale,
        output_type="latent",
    ).images
    empty = "model" if negative is None else "text"
    same = {"negative_prompt": negative or "", "inversion_prompt": negative or "", "empty": empty}
    embeddings = embed_prompt(guidance, prompt, Prompting(front="", left="", back="", right="", **same))  # type: ignore[arg-type]
    views = embeddings.conditioning(torch.tensor([37.0]), torch.tensor([5.0]))
    denoiser = Denoiser(guidance, views, embeddings.negative, None, [scale])
    scheduler = DDIMScheduler.from_pretrained(model_folders[kind], subfolder="scheduler")
    scheduler.set_timesteps(count)
    x = latents
    for t in scheduler.timesteps.tolist():
        (eps,) = denoiser.answer({0: (Guided(x, t),)})[0]
        x = ddim_step(guidance.schedule, x, eps, t, max(t - 1000 // count, 0))
    torch.testing.assert_close(x, theirs, atol=1e-4, rtol=1e-4)


def test_no_prompt_is_zeros_for_a_model_that_was_trained_with_them(loaded: dict[str, Guidance]) -> None:
    rows = embed_prompt(loaded["sdxl"], "a duck", Prompting(negative_prompt="ugly"))
    assert rows.inversion.pooled is not None and rows.negative.pooled is not None and rows.inversion.time_ids is not None
    assert not rows.inversion.hidden.any() and not rows.inversion.pooled.any()
    assert rows.negative.hidden.any() and rows.inversion.time_ids.tolist() == [[32, 32, 0, 0, 32, 32]]
    text = loaded["sdxl"].embed([""])
    assert torch.equal(embed_prompt(loaded["sdxl"], "a duck", Prompting(empty="text")).inversion.hidden, text.hidden)
    assert embed_prompt(loaded["sd"], "a duck", Prompting()).inversion.hidden.any()


@pytest.mark.parametrize("kind", KINDS)
def test_text_encoders_visit_the_device_only_while_they_embed(
    kind: str, loaded: dict[str, Guidance], monkeypatch: pytest.MonkeyPatch
) -> None:
    visits: list[tuple[int, str]] = []
    for index, encoder in enumerate(loaded[kind].text_encoders):
        place, forward = encoder.to, encoder.forward

        def to(device: Any, index: int = index, place: Any = place) -> Any:
            visits.append((index, "device" if device == loaded[kind].device and device != "cpu" else str(device)))
            return place(device)

        def run(*arguments: Any, index: int = index, forward: Any = forward, **options: Any) -> Any:
            visits.append((index, "embeds"))
            return forward(*arguments, **options)

        monkeypatch.setattr(encoder, "to", to)
        monkeypatch.setattr(encoder, "forward", run)
    loaded[kind].embed(["a red duck"])
    each = ("device", "embeds", "cpu")
    assert visits == [(index, step) for index in range(len(loaded[kind].text_encoders)) for step in each]


def test_precision_is_as_asked_and_sdxls_own_vae_stays_out_of_float16(model_folders: dict[str, Path], tmp_path: Path) -> None:
    assert load_guidance(str(model_folders["sdxl"]), "cpu").dtype == torch.float32
    half = load_guidance(str(model_folders["sdxl"]), "cpu", Weights(precision="bfloat16"))
    assert half.unet.dtype == half.vae.dtype == half.text_encoders[0].dtype == torch.bfloat16 and half.notes == ()
    own = load_guidance(str(model_folders["sdxl"]), "cpu", Weights(precision="float16"))
    assert own.unet.dtype == torch.float16 and own.vae.dtype == torch.float32
    assert "gives NaN in float16 unless it was made for it, so it runs in float32" in own.notes[0]
    assert models.FP16_VAE in own.notes[0]
    images = torch.rand(1, 3, 32, 32)
    assert own.encode(images).dtype == torch.float32 and bool(own.decode(own.encode(images)).isfinite().all())
    made_for_it = copy(model_folders["sdxl"] / "vae", tmp_path / "fp16")
    config = json.loads((made_for_it / "config.json").read_text())
    (made_for_it / "config.json").write_text(json.dumps({**config, "force_upcast": False}))
    other = load_guidance(str(model_folders["sdxl"]), "cpu", Weights(precision="float16", vae=str(made_for_it)))
    assert other.vae.dtype == torch.float16 and other.notes == ()


def test_another_vae_must_speak_of_the_same_latents(model_folders: dict[str, Path], tmp_path: Path) -> None:
    foreign = copy(model_folders["sd"] / "vae", tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    with pytest.raises(
        WeightsError, match=r"4 channels at 1/2 of the size, scaled by 0\.5, where the model needs .* scaled by 1\.3"
    ):
        load_guidance(str(model_folders["sd"]), "cpu", Weights(vae=str(foreign)))
    for name, part in ((str(tmp_path), "holds no VAE"), ("embedded", "is accepted"), ("/no/vae.safetensors", "does not exist")):
        with pytest.raises(WeightsError, match=part):
            load_guidance(str(model_folders["sd"]), "cpu", Weights(vae=name))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"])
def test_a_folder_that_lacks_a_part_says_which(part: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    half = copy(model_folders["sdxl"], tmp_path / "half")
    shutil.rmtree(half / part)
    with pytest.raises(WeightsError, match=rf"The model half is incomplete: {part}.* is missing\. Download it again\."):
        load_guidance(str(half), "cpu")


def test_a_half_downloaded_hub_model_says_how_to_complete_it(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = copy(model_folders["sd"], tmp_path / "half")
    (half / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setattr(models, "fetch", lambda *arguments, **options: half)
    wanted = r"The model owner/model is incomplete: unet has no \.safetensors weights\. 'hf download owner/model' completes it"
    with pytest.raises(WeightsError, match=wanted):
        load_guidance("owner/model", "cpu", download=False)


def test_a_missing_shard_is_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    half = copy(model_folders["sd"], tmp_path / "half")
    whole = half / "unet" / "diffusion_pytorch_model.safetensors"
    whole.rename(half / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    listing = {
        "weight_map": {
            "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
            "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
        }
    }
    (half / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(listing))
    with pytest.raises(WeightsError, match=r"unet/diffusion_pytorch_model-00002-of-00002\.safetensors is missing"):
        load_guidance(str(half), "cpu")


def test_loading_says_what_it_does(model_folders: dict[str, Path]) -> None:
    heard: list[str] = []
    load_guidance(str(model_folders["sd"]), "cpu", say=heard.append)
    assert heard == ["Reading sd.", "Moving sd to the memory."]


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
    with pytest.raises(SettingsError, match=r"'a DSLR photo of a dragon' names nothing.*dog for 'dragon'.*mushroom.*balloon"):
        guidance.check_prompt("a DSLR photo of a dragon")
    assert "'deformed'" in guidance.check_prompt("a red duck", "deformed, blurry")[0]


def test_auto_says_what_it_took_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = resolve("auto", "cpu")
    assert choice.source == str(models.EMBEDDED) and "no CUDA card" in choice.reason
    monkeypatch.setattr(models, "_is_cached", lambda repository: False)
    choice = resolve("auto", "cuda")
    assert choice.source == str(models.EMBEDDED) and "not in the local hub cache" in choice.reason
    monkeypatch.setattr(models, "_is_cached", lambda repository: repository == models.SDXL)
    choice = resolve("auto", "cuda")
    assert (choice.kind, choice.source) == ("hub", models.SDXL) and "CUDA card" in choice.reason
    assert models.is_local(choice) and not models.is_local(resolve("owner/other", "cuda"))
    assert models.is_local(resolve("embedded", "cpu"))


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
    with pytest.raises(WeightsError, match=r"not a \.safetensors file.*--allow-pickle-weights"):
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
    with pytest.raises(WeightsError, match="pickled, which can run code and is not read; --allow-pickle-weights"):
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
