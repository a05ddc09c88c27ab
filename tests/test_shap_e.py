"""Shap-E as the start of a run: a tiny random model from disk, against diffusers' own pipeline; and what happens without it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from skimage.measure import marching_cubes
from tiny_models import clip_tokenizer, settings
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from dreamerxl.config import Initialization
from dreamerxl.errors import WeightsError
from dreamerxl.gaussians.initialize import initialize
from dreamerxl.gaussians.scene import activate
from dreamerxl.gaussians.surface import Surface, sample, to_srgb
from dreamerxl.guidance.shap_e import points_from_text
from dreamerxl.runs.prepare import Preparation

CPU = torch.device("cpu")
SMALL = {"steps": 2, "grid": 14}


def marching_cubes_table() -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles of each of the 256 ways in which a cube's corners are inside: three edges each, and how many there are.

    Corner x + 2 y + 4 z; edges along x by (y, z), along y by (x, z), along z by (x, y). The real model's file brings its own.
    """
    cases, masks = torch.zeros(256, 5, 3, dtype=torch.long), torch.zeros(256, 5, dtype=torch.bool)
    for case in range(1, 255):
        corners = np.array([case >> bit & 1 for bit in range(8)], float).reshape(2, 2, 2).transpose(2, 1, 0)
        vertices, faces, *_ = marching_cubes(2 * corners - 1, 0, method="lorensen")
        edges = []
        for vertex in vertices:
            axis = int(np.flatnonzero(np.abs(vertex - 0.5) < 0.25)[0])
            low, high = (round(float(v)) for n, v in enumerate(vertex) if n != axis)
            edges.append(4 * axis + low + 2 * high)
        for row, face in enumerate(faces):
            cases[case, row], masks[case, row] = torch.tensor([edges[n] for n in face]), True
    return cases, masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=20,
        projection_dim=16,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        renderer = ShapERenderer(
            param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12, background=(0.1, 0.1, 0.1)
        )
        prior = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            embedding_dim=16,
            num_embeddings=32,
            embedding_proj_dim=16,
            time_embed_dim=64,
            num_layers=1,
            clip_embed_dim=32,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
        )
        made = ShapEPipeline(
            prior=prior,
            text_encoder=CLIPTextModelWithProjection(text),
            tokenizer=tokenizer,
            scheduler=HeunDiscreteScheduler(
                beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True, clip_sample=True
            ),
            shap_e_renderer=renderer,
        )
    renderer.mesh_decoder.cases, renderer.mesh_decoder.masks = marching_cubes_table()
    path = tmp_path_factory.mktemp("shap-e")
    made.save_pretrained(path)
    return path


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_points_lie_on_the_mesh_of_diffusers_own_pipeline_turned_to_our_axes(folder: Path) -> None:
    pipe = ShapEPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = seeded()
    options: dict[str, Any] = {"guidance_scale": 15.0, "num_inference_steps": SMALL["steps"], "output_type": "latent"}
    latents = pipe("a red duck", generator=generator, **options).images
    mesh = pipe.shap_e_renderer.decode_to_mesh(latents, "cpu", grid_size=SMALL["grid"])
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # (0, -1, 0), their front, goes to (1, 0, 0)
    vertices = (mesh.verts @ quarter_turn.T).double().numpy()
    colors = torch.stack([mesh.vertex_channels[name] for name in "RGB"], -1).double().detach().numpy()
    faces = mesh.faces.numpy()
    assert len(faces) > 20
    expected = sample([Surface(vertices[faces], colors[faces])], 500, generator)

    heard: list[str] = []
    points = points_from_text("a red duck", 500, seeded(), CPU, heard.append, source=str(folder), **SMALL)
    np.testing.assert_allclose(points.means, expected.means, atol=1e-5)
    assert points.rgbs is not None and expected.rgbs is not None
    np.testing.assert_allclose(points.rgbs, expected.rgbs, atol=1e-4)
    assert to_srgb(colors).min() - 1e-4 <= points.rgbs.min() and points.rgbs.max() <= to_srgb(colors).max() + 1e-4
    assert heard == ["Reading Shap-E.", *(f"Shap-E: step {n} of 3." for n in (1, 2, 3)), "Shap-E: from latents to a mesh."]


def test_only_the_generator_and_the_text_decide(folder: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (points_from_text("a duck", 50, seeded(n), CPU, source=str(folder), **SMALL) for n in (1, 1, 2))
    assert np.array_equal(first.means, again.means) and not np.array_equal(first.means, other.means)
    assert torch.equal(torch.random.get_rng_state(), before)
    third = points_from_text("green chairs", 50, seeded(1), CPU, source=str(folder), **SMALL)
    assert not np.array_equal(first.means, third.means)


def test_a_run_starts_from_the_cloud(folder: Path) -> None:
    cloud = points_from_text("a duck", 300, seeded(), CPU, source=str(folder), **SMALL)
    start = Initialization(shape="text", count=200, radius=0.5)
    splats = activate(initialize(start, seeded(), cloud=cloud))
    assert len(splats) == 200 and splats.means.norm(dim=-1).max().item() == pytest.approx(0.5, rel=0.2)
    assert splats.colors.std() > 0.05 or cloud.rgbs is None or cloud.rgbs.std() < 0.05
    grey = activate(initialize(dataclasses.replace(start, keep_colors=False), seeded(), cloud=cloud))
    assert torch.equal(grey.means, splats.means) and abs(grey.colors.mean().item() - 0.5) < 0.01 and grey.colors.std() < 0.05
    turned = activate(initialize(dataclasses.replace(start, turn_deg=90), seeded(), cloud=cloud))
    torch.testing.assert_close(turned.means[:, 1], splats.means[:, 0], atol=1e-5, rtol=0)
    ball = activate(initialize(start, seeded()))
    assert torch.equal(ball.means, activate(initialize(dataclasses.replace(start, shape="ball"), seeded())).means)


def asked(model: Path, source: str) -> Any:
    plain = settings(model=str(model), device="cpu", initialization__shape="text", initialization__prompt="a duck")
    return plain.override({"initialization.shap_e": source, "initialization.count": 40})


def test_every_side_starts_from_the_same_points(folder: Path, model_folders: dict[str, Path], monkeypatch: Any) -> None:
    for name, value in SMALL.items():
        monkeypatch.setitem(points_from_text.__kwdefaults__, name, value)
    heard: list[str] = []
    prepared = Preparation()(asked(model_folders["sd"], str(folder)), heard.append)
    first, second = (side.params["means"] for side in prepared.trainer.sides)
    assert torch.equal(first, second) and len(first) == 40 and "Reading Shap-E." in heard
    assert not any("Shap-E" in notice for notice in prepared.notices)


def test_without_its_weights_a_run_starts_from_a_ball_and_says_so(model_folders: dict[str, Path], monkeypatch: Any) -> None:
    wanted = asked(model_folders["sd"], "owner/not-there")
    prepared = Preparation()(wanted)
    (notice,) = [notice for notice in prepared.notices if "Shap-E" in notice]
    assert notice.startswith(
        "The run starts from a ball in place of what Shap-E makes of 'a duck'. The model owner/not-there is not"
    )
    assert notice.endswith("fetch it with 'hf download owner/not-there' where there is a connection.")
    ball = Preparation()(wanted.override({"initialization.shape": "ball"}))
    pairs = zip(prepared.trainer.sides, ball.trainer.sides, strict=True)
    assert all(torch.equal(a.params["means"], b.params["means"]) for a, b in pairs)


@pytest.mark.parametrize("part", ["model_index.json", "prior", "text_encoder", "tokenizer", "scheduler", "shap_e_renderer"])
def test_a_folder_that_lacks_a_part_gets_a_sentence(folder: Path, tmp_path: Path, part: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    shutil.rmtree(half / part) if (half / part).is_dir() else (half / part).unlink()
    with pytest.raises(WeightsError, match=r"Shap-E.*\.$"):
        points_from_text("a duck", 50, seeded(), CPU, source=str(half), **SMALL)


def test_pickled_and_torn_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bad")
    weights = tmp_path / "bad" / "shap_e_renderer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="is cut short"):
        points_from_text("a duck", 50, seeded(), CPU, source=str(tmp_path / "bad"), **SMALL)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsError, match="pickled, which can run code and is not read"):
        points_from_text("a duck", 50, seeded(), CPU, source=str(tmp_path / "bad"), **SMALL)


def test_a_field_without_a_surface_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = ShapERenderer.decode_to_mesh

    def empty(self: Any, *arguments: Any, **options: Any) -> Any:
        self.mesh_decoder.masks[:] = False
        return decode(self, *arguments, **options)

    monkeypatch.setattr(ShapERenderer, "decode_to_mesh", empty)
    with pytest.raises(WeightsError, match="Shap-E"):
        points_from_text("a duck", 50, seeded(), CPU, source=str(folder), **SMALL)
