"""Throws spoilt input at everything that reads what a visitor may send, and counts what is not refused in a sentence.

    python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--only settings link ...]

Each reader starts from good files, which are cut, doubled, flipped, mixed and given extreme numbers. Right answers are a
value or a DreamerError; anything else is a crash. The slowest input of each reader and the growth of the memory are told.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import io
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image

from dreamerxl.config import PRESETS, Settings, load_preset, load_settings
from dreamerxl.errors import DreamerError
from dreamerxl.gaussians.export import export
from dreamerxl.gaussians.initialize import read_scene
from dreamerxl.gaussians.scene import freeze, make_params
from dreamerxl.gaussians.spz import read_spz
from dreamerxl.runs.metadata import html_script, png_chunk, read_about, settings_of
from dreamerxl.web.share import query_of, settings_of_link

EXTREME = [
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"99999999999999999999",
    b"2147483648",
    b"!!python/object:os.system",
    b"&a [*a, *a]",
    b"null",
]
SHARES = {
    "settings": 0.2,
    "values": 0.2,
    "link": 0.1,
    "ply": 0.2,
    "splat": 0.05,
    "spz": 0.05,
    "glb": 0.05,
    "obj": 0.05,
    "about": 0.1,
}


@dataclass(frozen=True)
class Target:
    """A reader and good inputs for it."""

    read: Callable[[bytes], object]
    good: list[bytes]


@dataclass
class Result:
    """What came of the inputs of one reader."""

    inputs: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    crashes: list[str] = dataclasses.field(default_factory=list)


def spoil(good: list[bytes], chance: random.Random) -> bytes:
    """One of the good inputs with one to four changes."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        other = chance.choice(good)
        size = chance.choice([1, 1, 2, 4, 8, 64])
        change = chance.randrange(7)
        if change == 0 and data:
            data[at % len(data)] = chance.randrange(256)
        elif change == 1:
            del data[at : at + size]
        elif change == 2:
            data[at:at] = data[at : at + size] * chance.randint(1, 3)
        elif change == 3:
            data[at:at] = chance.choice(EXTREME)
        elif change == 4:
            start = chance.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + size]
        elif change == 5:
            data[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\x80\x7f"])
        else:
            del data[at:]
    return bytes(data)


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """Anything that YAML or JSON can say."""
    kind = chance.randrange(9 if depth < 3 else 7)
    if kind < 7:
        texts = ["", "tsm", "<b>", "../x", "é" * 2000, "1", "nan"]
        return [None, True, chance.randint(-10, 10), 10**30, chance.gauss(0, 10), float("nan"), chance.choice(texts)][kind]
    if kind == 7:
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(["gamma", "method", "views", "batch", "x"]): random_value(chance, depth + 1) for _ in range(3)}


def targets(folder: Path) -> dict[str, Target]:
    """Everything that reads what a visitor may send."""
    scene = folder / "scene"
    params = make_params(
        torch.randn(6, 3),
        torch.tensor([1.0, 0, 0, 0]).repeat(6, 1),
        torch.full((6, 3), 0.1),
        torch.full((6,), 0.9),
        torch.rand(6, 3),
    )
    settings = load_preset("duck")
    about = {"settings": settings.to_dict()}
    good: dict[str, list[bytes]] = {}
    for suffix in (".ply", ".splat", ".spz"):
        export(scene.with_suffix(suffix), freeze(params), json.dumps(about))
        good[suffix[1:]] = [scene.with_suffix(suffix).read_bytes()]
    header = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    good["ply"].append(header + b"property float z\nend_header\n0 0 0\n1 1 1\n")
    good["spz"] = [gzip.decompress(good["spz"][0])]  # spoilt inside, then packed again
    good["obj"] = [b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\nf -3 -2 -1\n"]
    good["glb"] = [_triangle()]
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG", pnginfo=png_chunk(about))
    page = b"<!doctype html>" + html_script(about).encode()
    presets = [path.read_bytes() for path in PRESETS.glob("*.yaml")]
    fields = list(_names(settings))

    def scene_reader(suffix: str) -> Callable[[bytes], object]:
        path = folder / f"input.{suffix}"

        def read(data: bytes) -> object:
            if suffix == "spz":  # written for others, read back by our own reader
                path.write_bytes(gzip.compress(data, 1))
                return read_spz(path)
            path.write_bytes(data)
            return read_scene(path, 100, torch.Generator().manual_seed(0))

        return read

    def read_settings(data: bytes) -> object:
        (folder / "input.yaml").write_bytes(data)
        return load_settings(folder / "input.yaml")

    def read_values(data: bytes) -> object:
        chance = random.Random(data)
        return Settings().override({chance.choice(fields): random_value(chance) for _ in range(chance.randint(1, 3))})

    def read_link(data: bytes) -> object:
        pairs = [part.partition("=") for part in data.decode("utf-8", "replace").split("&")]
        return settings_of_link({name: value for name, _, value in pairs})

    def read_file(data: bytes) -> object:
        (folder / "input.bin").write_bytes(data)
        return settings_of(read_about(folder / "input.bin"))

    found = {name: Target(scene_reader(name), good[name]) for name in ("ply", "splat", "spz", "glb", "obj")}
    return {
        "settings": Target(read_settings, presets),
        "values": Target(read_values, [bytes(16), b"seeds for random values"]),
        "link": Target(read_link, [query_of(settings).encode(), query_of(Settings(prompt="a ball")).encode()]),
        "about": Target(read_file, [picture.getvalue(), page, *good["ply"]]),
        **found,
    }


def _names(settings: Settings) -> list[str]:
    from dreamerxl.config import leaf_fields

    return [name for name, _ in leaf_fields()] + ["variants", "variants.0.gamma", "variants.9.gamma", "views", "", ".", "x.y"]


def _triangle() -> bytes:
    import trimesh

    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], vertex_colors=np.full((3, 4), 200, np.uint8))
    return bytes(mesh.export(file_type="glb"))  # pyright: ignore[reportArgumentType]


def fuzz(target: Target, inputs: int, seed: int) -> Result:
    """Throw that many inputs at a reader."""
    chance, result = random.Random(seed), Result()
    for _ in range(inputs):
        data = spoil(target.good, chance)
        begun = time.perf_counter()
        try:
            target.read(data)
        except DreamerError:
            result.refused += 1
        except Exception as error:
            result.crashes.append(f"{type(error).__name__}: {error}; input {data[:200]!r}")
        result.slowest_s = max(result.slowest_s, time.perf_counter() - begun)
        result.inputs += 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(SHARES), default=list(SHARES))
    arguments = parser.parse_args()
    total, before = 0, 0
    print(f"{'reader':<10}{'inputs':>9}{'refused':>9}{'crashes':>9}{'slowest':>12}")
    with tempfile.TemporaryDirectory() as folder:
        made = targets(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in arguments.only:
            result = fuzz(made[name], round(SHARES[name] * arguments.inputs), arguments.seed)
            slowest = f"{1e3 * result.slowest_s:.0f} ms"
            print(f"{name:<10}{result.inputs:>9,}{result.refused:>9,}{len(result.crashes):>9,}{slowest:>12}", flush=True)
            for crash in sorted(set(result.crashes))[:5]:
                print(f"    {crash}")
            total += result.inputs
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{total:,} inputs; the most memory at once grew by {grown:.0f} MB")


if __name__ == "__main__":
    main()
