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


HEAVY = {  # files that start browsers, clusters or programs to be killed: one after another, whatever runs beside them
    *("test_browser.py", "test_cluster.py", "test_hostile.py", "test_killed.py", "test_lab_tab.py", "test_network.py"),
    *("test_patience.py", "test_public.py", "test_start_stop.py", "test_tour.py", "test_view.py", "test_visitors.py"),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In two processes (make test) a file's tests stay together, and one process has all of the heavy files."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group("heavy" if item.path.name in HEAVY else item.path.name))
    items.sort(key=lambda item: item.path.name not in HEAVY)  # the longest of the two begins first


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
