"""Scenes as .ply files: coloured points, or Gaussians in the layout of the original 3D Gaussian splatting code.

Gaussians are written in binary, little-endian. Accepted are ascii and binary (either byte order), element ``vertex`` of
scalar properties, with
    x y z [red green blue]                                             coloured points (uchar 0..255 or float 0..1)
    x y z f_dc_0..2 opacity scale_0..2 rot_0..3 [f_rest_*]             Gaussians; opacity is a logit, scales are logs,
                                                                       rot is wxyz; f_rest (view dependence) is ignored
The header is checked against the file's size before any data is read. Whatever is wrong becomes a SceneFileError.
A text that says where a scene comes from may travel in the header's comments (``about``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dreamerxl.errors import SceneFileError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import C0, FrozenSplats

MAX_VERTICES = 5_000_000
MAX_HEADER_BYTES = 262_144
TYPES = {
    **{name: "i1" for name in ("char", "int8")},
    **{name: "u1" for name in ("uchar", "uint8")},
    **{name: "i2" for name in ("short", "int16")},
    **{name: "u2" for name in ("ushort", "uint16")},
    **{name: "i4" for name in ("int", "int32")},
    **{name: "u4" for name in ("uint", "uint32")},
    **{name: "f4" for name in ("float", "float32")},
    **{name: "f8" for name in ("double", "float64")},
}
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
COLOR = ("red", "green", "blue")
COLUMNS = (  # as they are written
    *("x", "y", "z", "nx", "ny", "nz"),  # normals are always 0; some readers insist on them
    *("f_dc_0", "f_dc_1", "f_dc_2"),  # spherical harmonics of degree 0
    "opacity",  # logit
    *("scale_0", "scale_1", "scale_2"),  # log
    *("rot_0", "rot_1", "rot_2", "rot_3"),  # wxyz
)
ABOUT = "comment dreamerxl "  # of the comment lines that carry pieces of ``about``
PIECE = 200  # characters of each
GAUSSIAN = ("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")


@dataclass(frozen=True)
class Points:
    """Coloured points as they stand in a file."""

    means: np.ndarray  # [N, 3] float32
    rgbs: np.ndarray | None  # [N, 3] float32 in 0..1, or None where the file has no colours

    def __len__(self) -> int:
        return len(self.means)


def write_ply(path: str | Path, splats: FrozenSplats, about: str = "") -> None:
    """Write a scene; ``about`` (ASCII without white space, which readers trim) goes into comments. Atomic."""
    limit = 1e-6  # the logit of exactly 0 or 1 is infinite, as is the log of a scale of 0
    opacities = np.clip(splats.opacities.astype(np.float64), limit, 1 - limit)
    rows = np.concatenate(
        [
            splats.means,
            np.zeros_like(splats.means),
            (splats.rgbs - 0.5) / C0,
            np.log(opacities / (1 - opacities))[:, None],
            np.log(np.maximum(splats.scales, 1e-8)),
            splats.quats,
        ],
        axis=-1,
    ).astype("<f4")
    header = ["ply", "format binary_little_endian 1.0"]
    header += [ABOUT + about[start : start + PIECE] for start in range(0, len(about), PIECE)]
    header += [f"element vertex {len(splats)}", *(f"property float {name}" for name in COLUMNS), "end_header", ""]
    with replacing(Path(path)) as partial:
        partial.write_bytes("\n".join(header).encode("ascii") + rows.tobytes())


def read_about(file: BinaryIO) -> str:
    """What ``write_ply`` put into the comments, or ''. Reads the header alone, at most MAX_HEADER_BYTES."""
    found, used = "", 0
    while (line := file.readline(MAX_HEADER_BYTES)).strip() != b"end_header" and line and used < MAX_HEADER_BYTES:
        used += len(line)
        if line.startswith(ABOUT.encode()):
            found += line[len(ABOUT) :].rstrip(b"\r\n").decode("ascii", "replace")
    return found


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[tuple[str, str], ...]  # (name, numpy type)


def read_ply(path: str | Path) -> Points | FrozenSplats:
    """Coloured points or Gaussians of a .ply file. Raises SceneFileError with the file and the reason."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            order, elements = _header(file)
            vertices = _vertices(file, path.stat().st_size, order, elements)
            return _gaussians(vertices) if "f_dc_0" in vertices else _points(vertices)
    except _Refused as reason:
        raise SceneFileError(f"The scene file {path.name} {reason}.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise SceneFileError(f"The scene file {path.name} cannot be read: {error}.") from None


class _Refused(Exception):
    """Why a file is not taken; the predicate of a sentence about it."""


def _header(file: BinaryIO) -> tuple[str, list[_Element]]:
    """Byte order ('' for ascii) and elements; leaves the file at the first byte of the data."""
    if file.readline(16).strip() != b"ply":
        raise _Refused("is not a .ply: it does not begin with the line 'ply'")
    order, elements, used = None, [], 0
    while True:
        line = file.readline(MAX_HEADER_BYTES)
        used += len(line)
        if not line.endswith(b"\n") or used > MAX_HEADER_BYTES:
            raise _Refused("has a header that does not end ('end_header' is missing)")
        words = line.decode("ascii", "replace").split()
        if words == ["end_header"]:
            break
        match words:
            case [] | ["comment", *_] | ["obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in FORMATS:
                order = FORMATS[name]
            case ["element", name, count] if count.isdecimal() and len(count) < 19:
                elements.append(_Element(name, int(count), ()))
            case ["property", "list", *_] if elements:
                elements[-1] = _Element(elements[-1].name, elements[-1].count, (*elements[-1].properties, ("", "list")))
            case ["property", kind, name] if elements and kind in TYPES:
                properties = (*elements[-1].properties, (name, TYPES[kind]))
                elements[-1] = _Element(elements[-1].name, elements[-1].count, properties)
            case _:
                raise _Refused(f"has a header line that is not understood: {' '.join(words)[:80]!r}")
    if order is None:
        raise _Refused("names no format; ascii, binary_little_endian and binary_big_endian 1.0 are accepted")
    return order, elements


def _vertices(file: BinaryIO, size: int, order: str, elements: list[_Element]) -> dict[str, np.ndarray]:
    """Columns of the vertex element by name, [N] each, after checking that the file can hold them."""
    names = [element.name for element in elements]
    if names.count("vertex") != 1:
        raise _Refused(f"has {names.count('vertex')} elements named 'vertex'; one is accepted")
    before, vertex = elements[: names.index("vertex")], elements[names.index("vertex")]
    columns = [name for name, _ in vertex.properties]
    if vertex.count == 0:
        raise _Refused("is empty: it has no vertices")
    if vertex.count > MAX_VERTICES:
        raise _Refused(f"has {vertex.count:,} vertices; at most {MAX_VERTICES:,} are accepted")
    if any(kind == "list" for element in (*before, vertex) for _, kind in element.properties):
        raise _Refused("has a list property in or before its vertices; single numbers are accepted")
    if missing := [name for name in ("x", "y", "z") if name not in columns]:
        raise _Refused(f"has vertices without {', '.join(missing)}")
    if len(set(columns)) < len(columns):
        raise _Refused("names a vertex property twice")
    available = size - file.tell()
    if not order:
        least = 2 * sum(max(1, len(element.properties)) * element.count for element in (*before, vertex)) - 1
        _check_size(available, least)
        table = _ascii_table(file, sum(element.count for element in before), vertex)
        return {name: table[:, n] for n, name in enumerate(columns)}
    kinds = [np.dtype([(name, order + kind) for name, kind in element.properties]) for element in (*before, vertex)]
    skipped = sum(kind.itemsize * element.count for kind, element in zip(kinds, before, strict=False))
    _check_size(available, skipped + kinds[-1].itemsize * vertex.count)
    rows = np.memmap(file, kinds[-1], "r", file.tell() + skipped, (vertex.count,))
    return {name: rows[name] for name in columns if not name.startswith("f_rest_")}


def _check_size(available: int, least: int) -> None:
    if available < least:
        raise _Refused(f"is cut short: its header promises at least {least:,} bytes of data, {available:,} are there")


def _ascii_table(file: BinaryIO, skip: int, vertex: _Element) -> np.ndarray:
    try:
        table = np.loadtxt(file, np.float64, comments=None, skiprows=skip, max_rows=vertex.count, ndmin=2, encoding="latin1")
    except (ValueError, OverflowError):
        raise _Refused("has a vertex line that is not a row of numbers of equal length") from None
    if table.shape != (vertex.count, len(vertex.properties)):
        wanted = f"{vertex.count:,} vertices of {len(vertex.properties)} numbers"
        raise _Refused(f"does not hold what its header promises: {wanted} (found {table.shape[0]:,} of {table.shape[1]})")
    return table


def _matrix(vertices: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Columns [N, len(names)] as finite float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = np.stack([np.asarray(vertices[name]).astype(np.float32) for name in names], -1)
    bad = np.flatnonzero(~np.isfinite(matrix).all(-1))
    if len(bad):
        raise _Refused(f"has {', '.join(names)} that are not finite numbers in {len(bad):,} vertices, first in {bad[0]:,}")
    return matrix


def _points(vertices: dict[str, np.ndarray]) -> Points:
    means = _matrix(vertices, ("x", "y", "z"))
    if not all(name in vertices for name in COLOR):
        return Points(means, None)
    rgbs = _matrix(vertices, COLOR)
    kind = vertices["red"].dtype
    full = np.iinfo(kind).max if kind.kind == "u" else 255.0 if rgbs.max() > 1 else 1.0
    rgbs = rgbs / np.float32(full)
    if rgbs.min() < 0 or rgbs.max() > 1:
        raise _Refused("has colours out of range; 0..255 as uchar or 0..1 as float are accepted")
    return Points(means, rgbs)


def _gaussians(vertices: dict[str, np.ndarray]) -> FrozenSplats:
    if missing := [name for name in GAUSSIAN if name not in vertices]:
        raise _Refused(f"has the layout of Gaussians but lacks {', '.join(missing)}")
    means = _matrix(vertices, ("x", "y", "z"))
    colors, rest = _matrix(vertices, GAUSSIAN[:3]), _matrix(vertices, GAUSSIAN[3:])
    opacity, log_scales, quats = rest[:, 0], rest[:, 1:4], rest[:, 4:8]
    if np.abs(log_scales).max() > 20:
        raise _Refused("has scales beyond e^20; logarithms of world units are accepted")
    lengths = np.linalg.norm(quats, axis=-1, keepdims=True)
    if lengths.min() < 1e-12:
        raise _Refused("has a rotation of length zero")
    return FrozenSplats(
        means=means,
        quats=quats / lengths,
        scales=np.exp(log_scales),
        opacities=1 / (1 + np.exp(-np.clip(opacity, -80, 80))),
        rgbs=np.clip(np.float32(0.5) + np.float32(C0) * colors, 0, 1),
    )
