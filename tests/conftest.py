"""What several test files share: one thread, and tiny diffusion models made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

from dreamerxl.guidance import models
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import load_guidance

models.has_matrix_units = lambda: False  # 'auto' is float32 on every CPU, as the pipelines that the tests compare with


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """At these sizes a second thread costs more than it gives, far more on a busy machine. Set anew for each test: numba,
    which gsply calls, sets OpenMP's number for the thread that calls it, and sums are then rounded otherwise."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random models: 'sd' (word-level tokenizer), 'sd-v' (v-prediction, byte pairs), 'sdxl'."""
    root = tmp_path_factory.mktemp("models")
    return {
        "sd": tiny_models.make_stable_diffusion(root / "sd"),
        "sd-v": tiny_models.make_stable_diffusion(root / "sd-v", "v_prediction", word_level=False),
        "sdxl": tiny_models.make_stable_diffusion_xl(root / "sdxl"),
    }


@pytest.fixture(scope="session")
def guidance(model_folders: dict[str, Path]) -> Guidance:
    """The tiny Stable Diffusion model on the CPU."""
    return load_guidance(str(model_folders["sd"]), "cpu")
