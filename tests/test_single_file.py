"""Checkpoints in one file: tiny models under the original names, read without a connection, against what they were made from."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from original_names import single_file
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreamerxl.config import Weights
from dreamerxl.errors import WeightsError
from dreamerxl.guidance import single_file as reader
from dreamerxl.guidance.models import load_guidance

LAYOUTS = ("sd15", "sd21", "sdxl")
REAL = reader.LAYOUTS
PARAMETERS = {  # of the published models
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
}
CLASSES: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
CLASSES["text_encoder_2"] = CLIPTextModelWithProjection


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("a single file must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def text_config(second: bool, gelu: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=24 if second else 16,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act=gelu,
        projection_dim=24,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def make_pipeline(layout: str) -> Any:
    """A random model with the structure of the real one, two levels deep."""
    is_xl = layout == "sdxl"
    width = 16 + 24 if is_xl else 16
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 24 + 6 * 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(
                sample_size=12,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=2,
                attention_head_dim=(2, 4),
                norm_num_groups=4,
                cross_attention_dim=width,
                use_linear_projection=layout != "sd15",
                transformer_layers_per_block=(1, 2) if is_xl else 1,
                **(added if is_xl else {}),  # type: ignore[arg-type]
            ),
            "vae": AutoencoderKL(
                block_out_channels=(4, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                layers_per_block=2,
                norm_num_groups=2,
                sample_size=24,
                force_upcast=is_xl,
            ),
            "text_encoder": CLIPTextModel(text_config(False, "gelu" if layout == "sd21" else "quick_gelu")),
            "tokenizer": reader.clip_tokenizer("!" if layout == "sd21" else "<|endoftext|>"),
            "scheduler": DDIMScheduler.from_pretrained(REAL / layout, subfolder="scheduler"),
        }
        if is_xl:
            parts |= {"text_encoder_2": CLIPTextModelWithProjection(text_config(True, "gelu"))}
            made: Any = StableDiffusionXLPipeline(**parts, tokenizer_2=reader.clip_tokenizer("!"), add_watermarker=False)
        else:
            made = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # type: ignore[arg-type]
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return made


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipeline(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model; its sizes stand in for the layout's, which are those of the published one."""
    made = make_pipeline(layout)
    made.save_pretrained(tmp_path / "layouts" / layout)
    for weights in (tmp_path / "layouts").rglob("*.safetensors"):
        weights.unlink()
    monkeypatch.setattr(reader, "LAYOUTS", tmp_path / "layouts")
    return made


def written(path: Path, weights: dict[str, torch.Tensor], **metadata: str) -> str:
    save_file(weights, path, metadata=metadata or None)
    return str(path)


def test_reads_what_was_written(layout: str, pipeline: Any, tmp_path: Path) -> None:
    guidance = load_guidance(written(tmp_path / "model.safetensors", single_file(pipeline)), "cpu", Weights(prediction="auto"))
    for ours, theirs in (
        (guidance.unet, pipeline.unet),
        (guidance.vae, pipeline.vae),
        (guidance.text_encoders[0], pipeline.text_encoder),
    ):
        mine, original = ours.state_dict(), theirs.state_dict()
        assert mine.keys() == original.keys() and all(torch.equal(mine[name], original[name]) for name in mine)
    prompts = ["A DSLR photo of a Schnauzer wearing a pirate hat.", ""]
    rows = guidance.embed(prompts)
    expected = pipeline.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(rows.hidden, expected[0])
    if layout == "sdxl":
        torch.testing.assert_close(rows.pooled, expected[2])
    assert guidance.schedule.prediction_type == ("v_prediction" if layout == "sd21" else "epsilon")
    assert guidance.zeros_for_empty == (layout == "sdxl")


def test_what_the_network_predicts_is_found_told_or_set(layout: str, pipeline: Any, tmp_path: Path) -> None:
    weights = single_file(pipeline)

    def kind(prediction: Any = "auto", **metadata: str) -> tuple[str, bool, int | None]:
        contents = reader.inspect(Path(written(tmp_path / "a.safetensors", weights, **metadata)), "a", prediction)
        return contents.prediction, contents.zero_snr, contents.latent_size

    usual = "v_prediction" if layout == "sd21" else "epsilon"
    base = 64 if layout == "sd21" else None
    assert kind() == (usual, False, None)
    assert kind("epsilon") == ("epsilon", False, base)
    assert kind("v_prediction") == ("v_prediction", False, None)
    assert kind(**{"modelspec.prediction_type": "v"}) == ("v_prediction", False, None)
    assert kind(**{"modelspec.prediction_type": "epsilon"}) == ("epsilon", False, base)
    weights |= {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    assert kind() == ("v_prediction", True, None)
    if layout == "sd21":
        del weights["v_pred"]
        weights[reader.V_TELLTALE] = torch.tensor([-0.05, 0.05])  # spread 0.05: the base model
        assert kind()[0] == "epsilon"
        weights[reader.V_TELLTALE] = torch.tensor([-0.2, 0.2])
        assert kind()[0] == "v_prediction"


def test_a_schedule_that_ends_in_noise_is_taken_as_one(pipeline: Any, tmp_path: Path) -> None:
    plain = load_guidance(written(tmp_path / "a.safetensors", single_file(pipeline)), "cpu").schedule
    zero = load_guidance(written(tmp_path / "b.safetensors", single_file(pipeline) | {"ztsnr": torch.zeros(1)}), "cpu").schedule
    assert plain.alpha(999).item() > 4e-3 and zero.alpha(999).item() < 1e-6


def test_files_that_lack_something_get_a_sentence(layout: str, pipeline: Any, tmp_path: Path) -> None:
    whole = single_file(pipeline)

    def refusal(weights: dict[str, torch.Tensor]) -> str:
        with pytest.raises(WeightsError) as caught:
            load_guidance(written(tmp_path / "my model.safetensors", weights), "cpu")
        assert str(caught.value).startswith("The file my model.safetensors ") and str(caught.value).endswith(".")
        return str(caught.value)

    def without(prefix: str) -> dict[str, torch.Tensor]:
        return {name: value for name, value in whole.items() if not name.startswith(prefix)}

    assert "has no VAE" in refusal(without("first_stage_model."))
    assert "text encoder" in refusal(without(reader.TEXT[layout][0]))
    assert "is not a Stable Diffusion checkpoint" in refusal(without("model.diffusion_model."))
    assert "weights.loras" in refusal({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)})
    nine = torch.zeros(8, 9, 3, 3)
    assert "takes 9 channels" in refusal(whole | {reader.FIRST_LAYER: nine})
    broken = "is not a whole .* checkpoint, .*weights are missing"
    assert re.search(broken, refusal({n: v for n, v in whole.items() if "middle_block.0.in_layers.2" not in n}))
    assert re.search(broken, refusal(whole | {"model.diffusion_model.out.2.weight": torch.zeros(4, 3, 3, 3)}))
    second = "mlp.fc2" if layout == "sd15" else "mlp.c_proj"
    assert re.search(broken, refusal({n: v for n, v in whole.items() if second not in n}))


def test_an_interrupted_download_is_named(pipeline: Any, tmp_path: Path) -> None:
    path = Path(written(tmp_path / "model.safetensors", single_file(pipeline)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut short: .* of .* are there"):
        load_guidance(str(path), "cpu")


def test_a_vae_of_its_own(layout: str, pipeline: Any, tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors", single_file(pipeline))
    other = make_pipeline(layout).vae
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.01)
    names = {n.removeprefix("first_stage_model."): v for n, v in single_file_vae(other).items()}
    alone = written(tmp_path / "vae.safetensors", names)
    other.save_pretrained(tmp_path / "vae")
    images = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    expected = other.encode(images * 2 - 1).latent_dist.mean * other.config.scaling_factor
    for name in (alone, str(tmp_path / "vae")):
        taken = load_guidance(model, "cpu", Weights(vae=name))
        torch.testing.assert_close(taken.encode(images), expected)
    with pytest.raises(WeightsError, match=r"The file no\.safetensors is not a VAE"):
        load_guidance(model, "cpu", Weights(vae=written(tmp_path / "no.safetensors", {"a": torch.zeros(1)})))


def single_file_vae(vae: Any) -> dict[str, torch.Tensor]:
    from original_names import vae as original

    return {name: value.detach().clone().contiguous() for name, value in original(vae)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_are_those_of_the_published_models(name: str) -> None:
    counts = {}
    for part in PARAMETERS[name]:
        with torch.device("meta"):
            if part in ("unet", "vae"):
                model = CLASSES[part].from_config(CLASSES[part].load_config(REAL / name, subfolder=part))
            else:
                model = CLASSES[part](CLIPTextConfig.from_pretrained(REAL / name, subfolder=part))
        counts[part] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == PARAMETERS[name]


def test_the_tokenizer_is_clips() -> None:
    """Numbers from OpenAI's own tokenizer."""
    tokenizer = reader.clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    pirate = [49406, 320, 33740, 1125, 539, 320, 45745, 3716, 3309, 320, 13592, 3801, 269, 49407]
    assert tokenizer("A DSLR photo of a Schnauzer wearing a pirate hat.").input_ids == pirate
    assert tokenizer("a cat", padding="max_length").input_ids[4:] == [49407] * 73
    assert reader.clip_tokenizer("!")("a cat", padding="max_length").input_ids[4:] == [0] * 73
