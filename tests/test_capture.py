"""Turntables and contact sheets of known scenes."""

from __future__ import annotations

import json

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from fake_training import ball, fake_make_trainer
from PIL import Image

from dreamerxl.config import Settings, Variant
from dreamerxl.errors import RunFolderError
from dreamerxl.gaussians.scene import freeze, make_params
from dreamerxl.runs import capture
from dreamerxl.runs.capture import Caption, Side, capture_run, contact_sheet, extent, run_sides, side_detail, turntable
from dreamerxl.runs.manager import RunManager

CAPTION = Caption("a ball with a red arm", "400 iterations · seed 0", {"seed": 0, "prompt": "é面"})


def sides(count=2):
    return [Side(f"SIDE {index}", "gamma 0.3\nclip 0.05", freeze(ball(seed=index))) for index in range(count)]


def frames_of(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def is_red(image):
    image = image.astype(int)
    return (image[..., 0] > 150) & (image[..., 1] < 90) & (image[..., 2] < 90)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_contact_sheet_has_a_row_a_side_and_every_direction(tmp_path, count):
    path = contact_sheet(sides(count), tmp_path / "sheet.png", CAPTION, views=4, tile=64)
    image = Image.open(path)
    assert json.loads(image.text["dreamerxl"]) == CAPTION.metadata
    pixels = np.asarray(image)
    assert (pixels[0] == 255).all()
    assert (pixels[:, -1] == 255).all()
    left, step = capture.MARGIN + 150, 64 + capture.GAP
    bottom = pixels.shape[0] - capture.MARGIN
    for row in range(count):
        top = bottom - (count - row) * 64 - (count - 1 - row) * capture.GAP
        tiles = [pixels[top : top + 64, left + i * step : left + i * step + 64] for i in range(4)]
        assert all((tile < 200).any() for tile in tiles)
        red = [np.argwhere(is_red(tile)) for tile in tiles]
        assert red[0][:, 1].mean() == pytest.approx(32, abs=3)  # the arm points at the camera
        assert red[1][:, 1].mean() < 22  # seen from its left, the front is on the left of the picture
        assert len(red[2]) < len(red[0]) / 3  # hidden behind the ball
        assert red[3][:, 1].mean() > 42


def test_a_turntable_is_h264_of_even_size_that_turns(tmp_path):
    told = []
    path = turntable(sides(2), tmp_path / "t.mp4", CAPTION, frames=8, tile=65, on_frame=told.append)
    about, frames = frames_of(path)
    assert (about["codec"], about["pix_fmt"].split("(")[0]) == ("h264", "yuv420p")
    assert len(frames) == 8
    assert told == list(range(1, 9))
    assert all(side % 2 == 0 for side in about["size"])
    assert np.abs(frames[0].astype(int) - frames[4]).max() > 60
    assert (frames[0][:8] > 245).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.mp4"]


def test_sides_share_their_cameras(tmp_path):
    small = freeze(ball())
    far = freeze(make_params(torch.tensor([[1.2, 0, 0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.1),
                             torch.tensor([0.9]), torch.rand(1, 3)))  # fmt: skip
    assert extent([small]) < extent([far]) == extent([small, far])
    empty = freeze(
        make_params(torch.zeros(3, 3), torch.ones(3, 4), torch.full((3, 3), 0.1), torch.full((3,), 0.01), torch.ones(3, 3))
    )
    assert extent([empty]) > 0
    contact_sheet([Side("EMPTY", "", empty)], tmp_path / "empty.png", CAPTION, views=2, tile=32)


@pytest.mark.parametrize(
    "title",
    ["", "x" * 1000, "w" * 300 + " 面包 é γ", "two\nlines\tand tabs", "\U0001f95e \x07"],
    ids=["empty", "long", "wide", "lines", "odd"],
)
def test_any_prompt_can_stand_above_a_sheet(tmp_path, title):
    sheet = contact_sheet(sides(1), tmp_path / "sheet.png", Caption(title, title, {}), views=3, tile=72)
    pixels = np.asarray(Image.open(sheet))
    assert (pixels[:, -capture.MARGIN + 2 :] == 255).all()


def test_a_run_is_captured_with_what_repeats_it(tmp_path, monkeypatch):
    monkeypatch.setattr(capture.turntable, "__kwdefaults__", capture.turntable.__kwdefaults__ | {"frames": 4, "tile": 64})
    settings = Settings(prompt="a bagel", iterations=3, seed=11)
    manager = RunManager(tmp_path / "runs", fake_make_trainer())
    run = manager.submit(settings)
    manager.change(run.id, 1, {"gamma": 0.6})
    assert run.wait(20)
    manager.close(20)
    paths = capture_run(run.view)
    assert [path.name for path in paths] == ["contact-sheet.png", "turntable.mp4"]
    assert all(path.parent == run.folder.captures for path in paths)
    about = json.loads(Image.open(paths[0]).text["dreamerxl"])
    assert Settings.from_dict(about["settings"]).variants[1].gamma == 0.6
    assert (about["seed"], about["iterations"], about["run"]) == (11, 3, run.id)
    assert about["changes"] == [{"iteration": 0, "side": 1, "changes": {"gamma": 0.6}}]
    assert "torch" in about["versions"]


def test_a_run_whose_snapshot_was_let_go_is_captured_from_its_files(tmp_path):
    manager = RunManager(tmp_path / "runs", fake_make_trainer())
    run = manager.submit(Settings(prompt="a bagel", iterations=2))
    assert run.wait(20)
    manager.close(20)
    small = {"views": 2, "tile": 48}
    kept = contact_sheet(run_sides(run.view), tmp_path / "kept.png", CAPTION, **small)
    run.forget_snapshot()
    again = contact_sheet(run_sides(run.view), tmp_path / "again.png", CAPTION, **small)
    assert np.abs(np.asarray(Image.open(kept)).astype(int) - np.asarray(Image.open(again))).max() <= 1
    (run.folder.scenes / "1-tsm.ply").unlink()
    with pytest.raises(RunFolderError, match="There is no scene"):
        capture_run(run.view)


def test_details_name_what_a_method_uses():
    assert side_detail(Variant("tsm", gamma=0.25)).split("\n")[0] == "gamma 0.25"
    assert "gamma" not in side_detail(Variant("ism"))
    assert side_detail(Variant("sds", clip_color=None)) == "no clip"
