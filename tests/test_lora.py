"""LoRA files fused into a model, against diffusers' own way of running them beside it and against the closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from dreamerxl.config import Weights
from dreamerxl.errors import DreamerError, SettingsError, WeightsError
from dreamerxl.guidance.lora import parse_loras
from dreamerxl.guidance.models import load_guidance

KINDS = ("sd", "sd-v", "sdxl")


def pipeline(kind: str, folder: Path) -> Any:
    if kind == "sdxl":
        return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def trained(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A LoRA of rank 2 and alpha 4 as diffusers' training scripts write it, for the UNet and every text encoder."""
    pipe = pipeline(kind, model_folders[kind])
    layers: dict[str, Any] = {}
    parts = {"unet": ["to_q", "to_v", "to_out.0"], "text_encoder": ["q_proj", "out_proj"]}
    if kind == "sdxl":
        parts["text_encoder_2"] = ["v_proj"]
    for part, modules in parts.items():
        model = getattr(pipe, part)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False)
        inject_adapter_in_model(config, model, adapter_name="made")
        generator = torch.Generator().manual_seed(len(part))
        for name, value in model.named_parameters():
            if "lora" in name:
                value.data = 0.2 * torch.randn(value.shape, generator=generator)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(model, adapter_name="made")
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(tmp_path, weight_name="style.safetensors", safe_serialization=True, **layers)
    return tmp_path / "style.safetensors"


def predictions(guidance: Any, prompts: list[str]) -> Tensor:
    x = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return guidance.predict(x, torch.tensor([7, 600, 990][: len(prompts)]), guidance.embed(prompts))


def test_predicts_as_diffusers_does_with_the_lora_beside_the_model(
    kind: str, trained: Path, model_folders: dict[str, Path]
) -> None:
    prompts = ["a red duck", "a chair", ""]
    plain = load_guidance(str(model_folders[kind]), "cpu")
    fused = load_guidance(str(model_folders[kind]), "cpu", Weights(loras=f"{trained}@0.7"))
    pipe = pipeline(kind, model_folders[kind])
    pipe.load_lora_weights(str(trained.parent), weight_name=trained.name, adapter_name="style")
    pipe.set_adapters("style", 0.7)
    embedded = pipe.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    rows = fused.embed(prompts)
    torch.testing.assert_close(rows.hidden, embedded[0])
    x = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([7, 600, 990])
    added = {"text_embeds": embedded[2], "time_ids": rows.time_ids} if kind == "sdxl" else None
    output = pipe.unet(x, t, encoder_hidden_states=embedded[0], added_cond_kwargs=added).sample
    expected = fused.schedule.to_eps(output, x, t)
    torch.testing.assert_close(predictions(fused, prompts), expected, atol=1e-5, rtol=1e-5)
    assert (predictions(plain, prompts) - expected).abs().max() > 1e-2
    assert not any("lora" in name for model in (fused.unet, *fused.text_encoders) for name in model.state_dict())


def kohya(folder: Path, seed: int, alpha: float = 1.0, rank: int = 2) -> tuple[Path, str, Tensor]:
    """A LoRA as Kohya's scripts write it, for one weight of the tiny UNets: file, name of the weight, its change."""
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 32, generator=generator), torch.randn(32, rank, generator=generator)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    path = folder / f"kohya{seed}.safetensors"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}, path)
    return path, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", alpha / rank * (up @ down)


def test_weights_are_changed_by_scale_alpha_over_rank_up_down(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    first, name, change = kohya(tmp_path, 1)
    second, _, other = kohya(tmp_path, 2, alpha=3.0)
    before = load_guidance(str(model_folders[kind]), "cpu").unet.state_dict()
    after = load_guidance(str(model_folders[kind]), "cpu", Weights(loras=f" {first}@0.5 , {second}@-0.25")).unet.state_dict()
    torch.testing.assert_close(after[name], before[name] + 0.5 * change - 0.25 * other, atol=1e-5, rtol=1e-5)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != name)


def test_loras_that_do_not_fit_get_a_sentence(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def refusal(text: str) -> str:
        with pytest.raises(DreamerError) as caught:
            load_guidance(str(model_folders["sd"]), "cpu", Weights(loras=text))
        return str(caught.value)

    wrong = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (48, 2)}
    for key, (width, rank) in wrong.items():
        weights = {f"{key}.lora_down.weight": torch.zeros(rank, width), f"{key}.lora_up.weight": torch.zeros(width, rank)}
        save_file(weights | {f"{key}.alpha": torch.tensor(1.0)}, tmp_path / "wide.safetensors")
    assert "The LoRA wide.safetensors does not fit the model sd" in refusal(str(tmp_path / "wide.safetensors"))
    foreign = {
        "transformer.blocks.7.attn.lora_A.weight": torch.zeros(2, 8),
        "transformer.blocks.7.attn.lora_B.weight": torch.zeros(8, 2),
    }
    save_file(foreign, tmp_path / "flux.safetensors")
    assert "does not fit the model sd" in refusal(str(tmp_path / "flux.safetensors"))
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    assert "is not a LoRA" in refusal(str(tmp_path / "none.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"\x80\x04torn")
    assert "is not a .safetensors file" in refusal(str(tmp_path / "torn.safetensors"))
    assert "does not exist" in refusal("/nowhere/style.safetensors")


def test_a_lora_of_a_large_model_does_not_slip_into_a_small_one(model_folders: dict[str, Path], tmp_path: Path) -> None:
    key = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"  # a second text encoder, which Stable Diffusion has not
    save_file(
        {
            f"{key}.lora_down.weight": torch.ones(2, 32),
            f"{key}.lora_up.weight": torch.ones(32, 2),
            f"{key}.alpha": torch.tensor(1.0),
        },
        tmp_path / "xl.safetensors",
    )
    with pytest.raises(WeightsError, match="does not fit the model sd"):
        load_guidance(str(model_folders["sd"]), "cpu", Weights(loras=str(tmp_path / "xl.safetensors")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("a.safetensors", [("a.safetensors", 1.0)]),
        ("a.safetensors@0.8, b c.safetensors@-1", [("a.safetensors", 0.8), ("b c.safetensors", -1.0)]),
        ("me@home.safetensors", [("me@home.safetensors", 1.0)]),
        ("me@home.safetensors@.5", [("me@home.safetensors", 0.5)]),
    ],
)
def test_the_setting_lists_files_and_scales(text: str, expected: list[tuple[str, float]]) -> None:
    assert [(str(lora.path), lora.scale) for lora in parse_loras(text)] == expected


@pytest.mark.parametrize("text", ["style.ckpt", "style", "a.safetensors@11", "a.safetensors@nan", "a.safetensors@x", "@0.5"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"weights\.loras has the (entry|scale) .* accepted\."):
        parse_loras(text)
