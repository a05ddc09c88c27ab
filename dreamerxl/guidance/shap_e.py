"""Points made from a text by Shap-E (Jun and Nichol, 2023), through diffusers: where a run may start.

    text -> latents of an implicit surface (diffusion) -> mesh with vertex colours -> points spread over it by area
In the released presets Point-E has this part (``init_prompt``). Shap-E is its successor, with the same training data and
axes: z up, the front towards -y, which is turned to ours, +x.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerxl.errors import DreamerError, WeightsError
from dreamerxl.gaussians.ply import Points
from dreamerxl.gaussians.surface import Refused, Surface, sample
from dreamerxl.guidance.hub import Say, fetch, silent
from dreamerxl.guidance.models import resolve
from dreamerxl.guidance.parts import AGAIN, check_weights, quietly, read_index, variant, wanted_files

SHAP_E = "openai/shap-e"
WEIGHTY = ("prior", "text_encoder", "shap_e_renderer")
STEPS, GUIDANCE_SCALE, GRID = 64, 15.0, 128  # as its authors sample from text


def points_from_text(
    text: str,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    say: Say = silent,
    *,
    source: str = SHAP_E,
    steps: int = STEPS,
    grid: int = GRID,
    download: bool = True,
) -> Points:
    """``count`` coloured points on what Shap-E makes of a text, z up and the front towards +x.

    Random draws come from ``generator`` (a CPU generator). Nothing is kept in memory. Raises WeightsError where the
    model is not there or makes nothing that has a surface.
    """
    folder = _folder(source, say, download)
    try:
        with quietly(), torch.no_grad():
            say("Reading Shap-E.")
            pipeline = _pipeline(folder, device, say)
            latents = pipeline(
                text, generator=generator, guidance_scale=GUIDANCE_SCALE, num_inference_steps=steps, output_type="latent"
            ).images
            say("Shap-E: from latents to a mesh.")
            mesh = pipeline.shap_e_renderer.decode_to_mesh(latents[:1], device, grid_size=grid)
        return sample([_surface(mesh)], count, generator)
    except DreamerError:
        raise
    except Refused as reason:
        raise WeightsError(f"Shap-E made nothing of {text[:80]!r}: its mesh {reason}.") from None
    except torch.cuda.OutOfMemoryError:
        raise WeightsError("Shap-E does not fit into the memory of the CUDA card beside the other models.") from None
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"Shap-E cannot be used ({lines[0][:200].rstrip('.')}).") from error
    finally:
        pipeline = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _folder(source: str, say: Say, download: bool) -> Path:
    choice = resolve(source, "cpu")
    if choice.kind == "file":
        raise WeightsError(f"initialization.shap_e is {source!r}; a diffusers folder or a hub id is accepted.")
    if choice.kind == "folder":
        return Path(choice.source)
    return fetch(choice.source, lambda files: wanted_files(files, WEIGHTY), say, download=download, otherwise="")


def _pipeline(folder: Path, device: torch.device, say: Say) -> Any:
    """diffusers' pipeline with its parts read by known classes from .safetensors files."""
    from diffusers.models.transformers.prior_transformer import PriorTransformer
    from diffusers.pipelines.shap_e.pipeline_shap_e import ShapEPipeline
    from diffusers.pipelines.shap_e.renderer import ShapERenderer
    from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    class Told(ShapEPipeline):
        """The pipeline, telling its steps in place of a progress bar."""

        def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Iterator[Any]:
            steps = [] if iterable is None else list(iterable)
            for done, step in enumerate(steps):
                say(f"Shap-E: step {done + 1} of {len(steps)}.")
                yield step

    read_index(folder, "Shap-E")
    for part in WEIGHTY:
        if not (folder / part / "config.json").is_file():
            raise WeightsError(f"The model Shap-E is incomplete: {part}/config.json is missing. {AGAIN}")
        check_weights(folder / part, "Shap-E")
    dtype = torch.float32  # it is small, and its renderer's hash of parameters loses detail in half precision

    def load(kind: Any, part: str, **more: Any) -> Any:
        return kind.from_pretrained(folder, subfolder=part, variant=variant(folder / part, dtype), use_safetensors=True, **more)

    scheduler: Any = HeunDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    pipeline: Any = Told(
        prior=load(PriorTransformer, "prior", torch_dtype=dtype),
        text_encoder=load(CLIPTextModelWithProjection, "text_encoder", dtype=dtype),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        scheduler=scheduler,
        shap_e_renderer=load(ShapERenderer, "shap_e_renderer", torch_dtype=dtype),
    )
    return pipeline.to(device)


def _surface(mesh: Any) -> Surface:
    """The mesh that Shap-E's renderer gives, its front turned from -y to +x."""
    x, y, z = mesh.verts.detach().double().cpu().numpy().T
    vertices = np.stack([-y, x, z], -1)
    faces = mesh.faces.detach().cpu().numpy().astype(np.int64)
    colors = np.stack([mesh.vertex_channels[name].detach().double().cpu().numpy() for name in "RGB"], -1).clip(0, 1)
    return Surface(vertices[faces], colors[faces])  # its colours are linear light
