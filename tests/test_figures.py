"""The paper's figures: that they show what they say, on a tiny model with random weights and on trainers made for them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_models import make_stable_diffusion, settings

from dreamerxl.__main__ import main
from dreamerxl.config import Settings, Variant
from dreamerxl.errors import SettingsError
from dreamerxl.gaussians.scene import freeze
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import load_guidance
from dreamerxl.lab import figures
from dreamerxl.runs.drawing import camera, extent, pictures
from dreamerxl.runs.worker import MakeTrainer, Prepared
from dreamerxl.training.trainer import Trainer

ONE = (Variant(method="tsm", gamma=0.3, delta_t=80, delta_s=200, inversion_start="noised"),)


@pytest.fixture(scope="module")
def guidance(tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    return load_guidance(str(make_stable_diffusion(tmp_path_factory.mktemp("model"))), "cpu")


def maker(guidance: Guidance, judge: Any = None) -> MakeTrainer:
    return lambda wanted, say: Prepared(Trainer(wanted, guidance), guidance.decode, "a tiny model", "cpu", (), judge)


def tiles_of(content: bytes, rows: int, columns: int) -> np.ndarray:
    """The pictures of a sheet [rows, columns, TILE, TILE, 3], cut out where the layout says they are."""
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    step, left, top = figures.TILE + figures.GAP, figures.MARGIN + figures.NAMES, 104
    assert image.shape[:2] == (top + rows * step + figures.MARGIN, 2 * figures.MARGIN + figures.NAMES + columns * step)
    return np.array(
        [
            [image[top + r * step :, left + c * step :][: figures.TILE, : figures.TILE] for c in range(columns)]
            for r in range(rows)
        ]
    )


def test_figure_2_shows_where_ism_and_tsm_agree_and_where_they_differ(guidance: Guidance):
    figure = figures.make_figure("2", settings(ONE, iterations=2), maker(guidance))
    spreads = figure.data["spreads"]
    for ism, tsm, sds in zip(spreads["ISM"], spreads["TSM γ 0.3"], spreads["SDS"], strict=True):
        assert ism["pseudo ground truth"] == tsm["pseudo ground truth"]  # of the same x_t
        assert ism["target"] != tsm["target"]
        assert sds["target"] == pytest.approx(sds["pseudo ground truth"], rel=1e-4)
        assert 0 < ism["target"] < sds["target"]  # inversion begins with little noise, SDS is all noise
    tiles = tiles_of(figure.content, 5, 6)
    assert (tiles[1] == tiles[2]).all()  # the rows of ISM and TSM
    assert not (tiles[3] == tiles[4]).all()
    assert (tiles[:, 0] == tiles[0, 0]).all()  # one scene


def test_figure_2_without_noise_has_no_spread(guidance: Guidance):
    clean = (Variant(method="tsm", inversion_start="clean"),)
    spreads = figures.make_figure("2", settings(clean, iterations=1), maker(guidance)).data["spreads"]
    assert all(of_t["target"] == of_t["pseudo ground truth"] == 0 for of_t in spreads["ISM"])
    assert all(of_t["target"] > 0 for of_t in spreads["SDS"])


def test_figure_6_grows_every_offset_rate_from_the_same_draws(guidance: Guidance):
    wanted = settings(ONE, iterations=3)
    figure = figures.make_figure("6", wanted, maker(guidance, judge=lambda views: 0.5))
    assert figure.data["gammas"] == figures.GAMMAS and len(figure.data["marks"]) == len(figures.GAMMAS)
    assert all(mark["judge"] == 0.5 for mark in figure.data["marks"])
    tiles = tiles_of(figure.content, 3, 7)
    alone = Trainer(settings((Variant(method="ism", delta_t=80, delta_s=200, inversion_start="noised"),), iterations=3), guidance)
    for _ in range(3):
        alone.step()
    splats = freeze(alone.sides[0].params)
    seen = camera(extent([splats]), figures.AZIMUTHS_DEG[0], 15.0, figures.TILE, figures.TILE)
    apart = np.abs(tiles[0, 0][1:-1, 1:-1].astype(int) - next(pictures(splats, seen))[1:-1, 1:-1])  # without the frame
    assert np.quantile(apart, 0.99) <= 8  # gamma 0 is ISM; the common extent of seven scenes is not quite that of one
    assert Settings.from_dict(dict(figure.settings)) == wanted


def test_figure_7_clips_one_side_and_counts_the_gaussians(guidance: Guidance):
    clipped = (Variant(method="tsm", clip_color=1e-6, clip_depth=1e-6),)
    wanted = settings(clipped, iterations=4, densification__start=1, densification__every=1, densification__grad_threshold=0)
    figure = figures.make_figure("7", wanted, maker(guidance))
    counts = np.array(figure.data["Gaussians"])
    assert counts.shape == (4, 2) and counts[-1].max() > counts[0].max()
    tiles = tiles_of(figure.content, 2, 6)
    assert (tiles[0, 4] == tiles[0, 5]).all()  # the gradient before and after, without clipping
    assert tiles[1, 5][1:-1, 1:-1].sum() < tiles[1, 4][1:-1, 1:-1].sum() / 2
    after = Settings.from_dict(dict(figure.settings))
    assert after.densification.enabled and after.losses.depth_ratio == 0.2
    assert [(side.clip_color, side.clip_depth) for side in after.variants] == [(None, None), (1e-6, 1e-6)]


class Painted:
    """A trainer that shows a disc of known colour; its pseudo ground truth is bluer, its VAE swaps red and green."""

    def __init__(self, wanted: Settings) -> None:
        self.iteration, self.settings = 0, wanted
        self.guidance = SimpleNamespace(encode=lambda image: image)
        self.sides = [SimpleNamespace(variant=side) for side in wanted.variants]
        y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
        self.disc = ((x - 20) ** 2 + (y - 20) ** 2 < 100).float()

    def step(self) -> Any:
        self.iteration += 1
        color = torch.tensor([0.6, 0.4, 0.3])
        render = torch.where(self.disc[..., None] > 0, color, torch.tensor(1.0))[None]
        x0_hat = render.movedim(-1, 1) + torch.tensor([0, 0, 0.3])[:, None, None]
        side = SimpleNamespace(render=render, disparity=self.disc[None], x0_hat=x0_hat)
        return SimpleNamespace(iteration=self.iteration - 1, draw=SimpleNamespace(depth=self.iteration == 2), sides=[side])


def test_the_blue_cast_is_measured_on_the_object_alone():
    def swapped(latents: torch.Tensor) -> torch.Tensor:
        return latents[:, [1, 0, 2]]

    figure = figures.make_figure(
        "blue", settings(ONE, iterations=4), lambda wanted, say: Prepared(Painted(wanted), swapped, "paint", "cpu")  # pyright: ignore
    )  # fmt: skip
    assert figure.data["iterations"] == [1, 3, 4]  # the second showed the depth
    np.testing.assert_allclose(figure.data["render"], [[0.6, 0.4, 0.3]] * 3, atol=1e-6)
    np.testing.assert_allclose(figure.data["through the VAE"], [[0.4, 0.6, 0.3]] * 3, atol=1e-6)
    np.testing.assert_allclose(figure.data["pseudo ground truth"], [[0.4, 0.6, 0.6]] * 3, atol=1e-6)
    assert "blue over the others: -0.200" in figure.content.decode() and "+0.100" in figure.content.decode()


def test_a_figure_is_kept_with_its_numbers_and_settings(tmp_path: Path):
    figure = figures.make_figure("3", settings(ONE, seed=4), lambda wanted, say: pytest.fail("the toy needs no model"))
    picture, numbers = figure.save(tmp_path / "new")
    assert picture.name == "figure-3.svg" and picture.read_bytes().startswith(b"<svg")
    told = json.loads(numbers.read_text())
    assert told["settings"]["seed"] == 4 and [row["mu"] for row in told["data"]["rows"]] == [800, 801, 810]


def test_an_unknown_figure_is_named():
    with pytest.raises(SettingsError, match="no figure '5'; figures: 2, 3, 6, 7"):
        figures.make_figure("5", settings(ONE), lambda wanted, say: pytest.fail("nothing is to be made"))


def test_a_figure_by_the_command_line(tmp_path: Path, guidance: Guidance, capsys: pytest.CaptureFixture[str]):
    asked = ["figure", "3", "--out", str(tmp_path), "--toy", "t=700", "s=600", "mu=650"]
    assert main(asked) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "figure-3.svg"), str(tmp_path / "figure-3.json")]
    told = json.loads((tmp_path / "figure-3.json").read_text())
    assert [row["mu"] for row in told["data"]["rows"]] == [600, 650] and told["settings"]["t"] == 700
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(settings(ONE, iterations=1).to_dict()))
    asked = ["figure", "7", "--preset", str(preset), "--clip-color", "0.2", "--out", str(tmp_path)]
    assert main(asked, make_trainer=maker(guidance)) == 0
    kept = Settings.from_dict(json.loads((tmp_path / "figure-7.json").read_text())["settings"])
    assert [side.clip_color for side in kept.variants] == [None, 0.2] and kept.iterations == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["9"], "no figure '9'; figures: 2, 3"),
        (["6", "--toy", "t=5"], "--toy is for figure 3"),
        (["3", "--toy", "t=5000"], "t = 5000"),
        (["6", "--gamma", "2"], "variants.0.gamma is 2"),
    ],
)
def test_what_cannot_be_made_ends_in_a_sentence(asked: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["figure", *asked]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown
