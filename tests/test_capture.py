"""Turntables and contact sheets of known scenes."""

from __future__ import annotations

import itertools
import json
import threading

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from fake_training import ball, fake_make_trainer
from PIL import Image

from dreamerxl.config import Settings, Variant
from dreamerxl.errors import RunFolderError, SettingsError
from dreamerxl.gaussians.scene import FrozenSplats, freeze, make_params
from dreamerxl.runs import drawing, films
from dreamerxl.runs.capture import capture_run, make_capture, run_sides, side_detail
from dreamerxl.runs.drawing import Caption, Side, extent
from dreamerxl.runs.films import growth, turntable
from dreamerxl.runs.growth import Growth, moments, scenes_at
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.stills import contact_sheet, screenshot

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
    left, step = drawing.MARGIN + 150, 64 + drawing.GAP
    bottom = pixels.shape[0] - drawing.MARGIN
    for row in range(count):
        top = bottom - (count - row) * 64 - (count - 1 - row) * drawing.GAP
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
    assert (pixels[:, -drawing.MARGIN + 2 :] == 255).all()


def test_a_run_is_captured_with_what_repeats_it(tmp_path, monkeypatch):
    monkeypatch.setattr(films.turntable, "__kwdefaults__", films.turntable.__kwdefaults__ | {"frames": 4, "tile": 64})
    settings = Settings(prompt="a bagel", iterations=3, seed=11)
    make, changed = fake_make_trainer(), threading.Event()
    manager = RunManager(tmp_path / "runs", lambda *given: changed.wait(20) and make(*given))
    run = manager.submit(settings)
    manager.change(run.id, 1, {"gamma": 0.6})
    changed.set()
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


@pytest.mark.parametrize(("width", "height"), [(640, 200), (200, 640), (333, 64)])
def test_a_screenshot_has_the_size_that_was_asked_and_every_side_whole(tmp_path, width, height):
    path = screenshot(sides(2), tmp_path / "shot.png", CAPTION, width=width, height=height, azimuth_deg=90)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (height, width, 3)
    for half in (pixels[:, : width // 2], pixels[:, (width + 1) // 2 :]):
        colored = half.max(-1).astype(int) - half.min(-1) > 40
        assert colored.sum() > 50
        assert not colored[:, 0].any() and not colored[:, -1].any() and not colored[-1].any()
    for bad in ({"width": 5000}, {"height": 10}, {"elevation_deg": 91}, {"azimuth_deg": float("nan")}):
        with pytest.raises(SettingsError, match="accepted"):
            screenshot(sides(1), tmp_path / "bad.png", CAPTION, **bad)


def test_growth_keeps_moments_evenly_and_within_its_bounds(tmp_path):
    kept = Growth(tmp_path, 1000, most=10)
    scene = freeze(ball())
    for iteration in range(1, 1001):
        if kept.due(iteration):
            kept.keep(iteration, [scene, scene])
    assert moments(tmp_path, 2) == (1, *range(100, 1001, 100))
    for iteration in range(1001, 4001):  # a run that goes on past its first end
        if kept.due(iteration):
            kept.keep(iteration, [scene, scene])
    found = moments(tmp_path, 2)
    assert 5 <= len(found) <= 12 and found[0] == 1
    assert {after - before for before, after in itertools.pairwise(found[1:])} == {kept.stride}
    assert len(list(tmp_path.iterdir())) == 2 * len(found)


def test_growth_is_bounded_in_bytes(tmp_path):
    kept = Growth(tmp_path, 100, most_bytes=30_000)
    for iteration in range(1, 101):
        if kept.due(iteration):
            kept.keep(iteration, [freeze(ball(300, seed=iteration))])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 30_000
    assert len(moments(tmp_path, 1)) >= 3


def test_a_moment_counts_once_every_side_is_there(tmp_path):
    kept = Growth(tmp_path, 10)
    kept.keep(4, [freeze(ball(seed=1)), freeze(ball(seed=2))])
    np.testing.assert_allclose(scenes_at(tmp_path, 4, 2)[1].means, freeze(ball(seed=2)).means, atol=1e-5)
    (tmp_path / "0000004-1.spz").unlink()
    assert moments(tmp_path, 2) == ()
    with pytest.raises(RunFolderError, match="was not kept"):
        scenes_at(tmp_path, 4, 2)


def test_a_time_lapse_grows_and_then_turns(tmp_path):
    kept = Growth(tmp_path / "growth", 3)
    final = freeze(ball())
    for iteration, count in ((1, 4), (2, 60), (3, 200)):
        kept.keep(iteration, [FrozenSplats(*(part[-count:] for part in vars(final).values()))])
    one = [Side("ISM", "clip 0.05", final)]
    path = growth(one, tmp_path / "growth", (1, 2, 3), tmp_path / "g.mp4", CAPTION, tile=64, and_turn=4)
    frames = frames_of(path)[1]
    assert len(frames) == 3 * films.MOMENT + 4
    seen = [int((frame.max(-1).astype(int) - frame.min(-1) > 40).sum()) for frame in frames]
    assert seen[0] < seen[films.MOMENT] < seen[2 * films.MOMENT]
    assert np.abs(frames[-1].astype(int) - frames[-3]).max() > 60


def test_a_run_without_moments_says_so(tmp_path):
    manager = RunManager(tmp_path / "runs", fake_make_trainer())
    run = manager.submit(Settings(prompt="a bagel", iterations=2))
    assert run.wait(20)
    manager.close(20)
    for path in run.folder.growth.glob("*"):
        path.unlink()
    with pytest.raises(RunFolderError, match="no moments"):
        make_capture(run.view, "growth.mp4")
