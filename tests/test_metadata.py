"""What files say about where they come from: settings come back equal, and hostile files are refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_training import ball, fake_make_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dreamerxl.config import Settings, Variant
from dreamerxl.errors import DreamerError, SettingsError
from dreamerxl.gaussians.export import export
from dreamerxl.gaussians.scene import freeze
from dreamerxl.runs import metadata
from dreamerxl.runs.capture import make_capture, run_caption, run_sides
from dreamerxl.runs.films import turntable
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.metadata import describe, html_script, read_about, settings_of, to_text
from dreamerxl.runs.run import Event, RunView

PROMPT = "a  bagel — 面包 </script><b>\n\u0007 \U0001f95e end_header"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """An ended run with a prompt full of traps and a live change on one side."""
    manager = RunManager(tmp_path_factory.mktemp("runs"), fake_make_trainer())
    run = manager.submit(
        Settings(prompt=PROMPT, iterations=3, seed=11, variants=(Variant("ism"), Variant("tsm", clip_depth=None)))
    )
    manager.change(run.id, 1, {"gamma": 0.6, "clip_color": None})
    assert run.wait(20)
    manager.close(20)
    return run.view


def write(kind: str, view: RunView, folder: Path) -> Path:
    if kind == ".png":
        return make_capture(view, "screenshot.png", width=80, height=64)
    if kind == ".mp4":
        return turntable(run_sides(view), folder / "film.mp4", run_caption(view), frames=2, tile=32)
    path = folder / f"file{kind}"
    if kind == ".html":
        path.write_text(f"<!doctype html><html><head>{html_script(describe(view))}</head></html>", encoding="utf-8")
    else:
        solid = dataclasses.replace(freeze(ball(2000)), scales=np.full((2000, 3), 0.12, np.float32))
        export(path, solid, to_text(describe(view)))
    return path


@pytest.mark.parametrize("kind", [".png", ".mp4", ".ply", ".glb", ".html"])
def test_settings_come_back_equal_with_the_live_changes(kind: str, view: RunView, tmp_path: Path):
    about = read_about(write(kind, view, tmp_path).rename(tmp_path / "renamed.bin"))  # told by its marks, not by its name
    assert settings_of(about) == view.settings
    assert settings_of(about).variants[1].gamma == 0.6 and settings_of(about).variants[1].clip_color is None
    assert about["changes"] == [{"iteration": 0, "side": 1, "changes": {"gamma": 0.6, "clip_color": None}}]
    assert (about["seed"], about["run"], about["iterations"]) == (11, view.id, 3)
    assert {"dreamerxl", "torch", "python"} <= set(about["versions"])


def test_the_text_of_a_picture_is_where_other_programs_find_it(view: RunView, tmp_path: Path):
    with Image.open(write(".png", view, tmp_path)) as image:
        assert json.loads(image.text["dreamerxl"])["settings"]["prompt"] == PROMPT  # type: ignore[attr-defined]


def test_a_page_cannot_be_left_by_a_prompt(view: RunView):
    script = html_script(describe(view))
    assert script.count("<") == 2 and script.endswith("</script>")
    assert json.loads(script.partition(">")[2].rpartition("<")[0])["settings"]["prompt"] == PROMPT


def test_many_changes_and_long_texts_stay_within_what_is_read(view: RunView, tmp_path: Path):
    event = Event(1, "changed", "", "", {"side": None, "changes": {"gamma": 0.123456789, "guidance_scale": 123.4}})
    long = {f"prompting.{name}": "\U0001f95e" * 1000 for name in ("negative_prompt", "front", "left", "back", "right", "depth")}
    heavy = dataclasses.replace(view, events=(event,) * 5000, settings=view.settings.override(long))
    assert len(to_text(describe(heavy))) <= metadata.LONGEST
    path = tmp_path / "scene.ply"
    export(path, freeze(ball()), to_text(describe(heavy)))
    assert settings_of(read_about(path)) == heavy.settings


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
        + b"".join(chunks)
        + chunk(b"IEND", b"")
    )


def itxt(text: bytes, packed: bool) -> bytes:
    return chunk(b"iTXt", b"dreamerxl\0" + bytes([packed, 0]) + b"\0\0" + text)


def test_a_packed_text_chunk_is_read_but_not_a_bomb(tmp_path: Path):
    path = tmp_path / "x.png"
    text = to_text({"settings": Settings(prompt="x").to_dict()}).encode()
    path.write_bytes(png(itxt(zlib.compress(text), True)))
    assert settings_of(read_about(path)) == Settings(prompt="x")
    path.write_bytes(png(itxt(zlib.compress(b'{"settings": {' + b" " * 400_000_000 + b"}}"), True)))
    with pytest.raises(DreamerError, match="carries no settings"):
        read_about(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        png(),
        png(itxt(b"[1, 2]", False)),
        png(itxt(b'{"settings": 3}', False)),
        png(itxt(b"[" * 100_000, False)),
        png(itxt(b"\xff\xfe", False)),
        png(itxt(b"not packed", True)),
        png(chunk(b"iTXt", b"dreamerxl\0")),
        b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIDAT",
        b"\0\0\0\x10ftypisom" + b"\0\0\0\x01moov" + b"\xff" * 8,
        b"\0\0\0\x08ftyp" + b"\0\0\0\x00moov" * 9000,
        b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 9000,
        b"glTF\2\0\0\0\xff\xff\xff\xff\xff\xff\xff\xffJSON",
        b"glTF",
        b"ply\n" + b"comment dreamerxl x" * 100_000,
        b"<html>" + metadata.SCRIPT.encode() + b"{}</script>",
    ],
)
def test_a_file_without_settings_is_refused_in_a_sentence(data: bytes, tmp_path: Path):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(DreamerError, match="carries no settings"):
        read_about(path)


@settings(deadline=None)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\0\0\0\x08ftyp", b"glTF\2\0\0\0", b"ply\n", b"<"]), st.binary(max_size=400))
def test_noise_never_gets_past_the_reader(tmp_path_factory: Any, mark: bytes, noise: bytes):
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(mark + noise)
    with pytest.raises(DreamerError):
        read_about(path)


def test_settings_of_another_version_are_refused_by_name():
    with pytest.raises(SettingsError, match=r"do not fit this version: .*gamma is 7"):
        settings_of({"settings": {"variants": [{"gamma": 7}]}})
    with pytest.raises(DreamerError, match="cannot be read"):
        read_about("/nowhere/at/all.png")
