"""Scenes as .spz, Niantic's compact format: https://github.com/nianticlabs/spz, version 3 written, 2 and 3 read.

One gzip stream: a header of 16 bytes, then, attribute by attribute, for N Gaussians

    positions  [N, 3]  24-bit signed fixed point, ``fractional bits`` of them behind the point
    alphas     [N]     byte: opacity * 255
    colors     [N, 3]  byte: (0.15 sh0 + 0.5) * 255
    scales     [N, 3]  byte: (log scale + 10) * 16
    rotations  [N, 4]  32 bits: which of x, y, z, w is largest (2 bits), the others by sign (1) and size (9), largest >= 0
                       (version 2: [N, 3] bytes, (1 + x, y, z) * 127.5, w >= 0)

Twenty bytes a Gaussian before gzip. The format's axes are right, up, back (y up); ours are front, left, up (z up), so an
object that faces +x here faces +z, towards the beholder, there.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from dreamerxl.errors import SceneFileError
from dreamerxl.files import replacing
from dreamerxl.gaussians.scene import C0, FrozenSplats

MAGIC, VERSION = 0x5053474E, 3
HEADER = struct.Struct("<IIIBBBB")  # magic, version, N, degree of spherical harmonics, fractional bits, flags, 0
COLOR_SCALE = 0.15
MOST = 5_000_000  # Gaussians that are read
HARMONICS = (0, 9, 24, 45, 72)  # bytes a Gaussian of each degree; they are skipped

AXES: tuple[int, ...] = (1, 2, 0)  # ours that become the format's x, y, z: a rotation, for the permutation is even


def write_spz(path: str | Path, splats: FrozenSplats, level: int = 6) -> None:
    """Write a scene; positions keep as many fractional bits as the farthest Gaussian leaves. Atomic."""
    with replacing(Path(path)) as partial:
        partial.write_bytes(gzip.compress(pack(splats), level, mtime=0))


def read_spz(path: str | Path) -> FrozenSplats:
    """A scene as ``write_spz`` or another program wrote it; view-dependent colour is left out. Raises SceneFileError."""
    path = Path(path)
    try:
        return unpack(_inflate(path.read_bytes()))
    except (ValueError, zlib.error, EOFError, struct.error) as error:
        raise SceneFileError(f"The scene file {path.name} is not an .spz that can be read: {error}.") from None
    except OSError as error:
        raise SceneFileError(f"The scene file {path.name} cannot be read: {error}.") from None


def pack(splats: FrozenSplats) -> bytes:
    """The stream before gzip."""
    means = splats.means[:, AXES].astype(np.float64)
    farthest = float(np.abs(means).max(initial=0.0))
    bits = next((bits for bits in range(20, 0, -1) if farthest * 2**bits < 2**23 - 1), 0)
    fixed = np.clip(np.round(means * 2**bits), -(2**23), 2**23 - 1).astype("<i4")
    positions = np.ascontiguousarray(fixed)[..., None].view(np.uint8)[..., :3]  # little-endian: the low three bytes
    with np.errstate(divide="ignore"):
        scales = (np.log(splats.scales[:, AXES]) + 10) * 16
    parts = (
        positions,
        _byte(splats.opacities * 255),
        _byte(((splats.rgbs - 0.5) / C0 * COLOR_SCALE + 0.5) * 255),
        _byte(scales),
        _packed_rotations(splats.quats),
    )
    header = HEADER.pack(MAGIC, VERSION, len(splats), 0, bits, 0, 0)
    return header + b"".join(part.tobytes() for part in parts)


def unpack(stream: bytes) -> FrozenSplats:
    """The scene of a stream. Raises ValueError with what is wrong, as the end of a sentence."""
    magic, version, count, degree, bits, _, _ = HEADER.unpack_from(stream)
    if magic != MAGIC or version not in (2, 3):
        raise ValueError(f"it has the mark {magic:#x} and version {version}, where {MAGIC:#x} and version 2 or 3 are accepted")
    if count > MOST or degree >= len(HARMONICS) or bits > 23:
        raise ValueError(f"its header tells of {count:,} Gaussians, degree {degree} and {bits} fractional bits")
    sizes = (9, 1, 3, 3, 4 if version == 3 else 3)
    if len(stream) < HEADER.size + count * (sum(sizes) + HARMONICS[degree]):
        raise ValueError(f"it is cut short: {count:,} Gaussians do not fit into its {len(stream):,} bytes")
    parts, place = [], HEADER.size
    for size in sizes:
        parts.append(np.frombuffer(stream, np.uint8, count * size, place).reshape(count, size))
        place += count * size
    positions, alphas, colors, scales, rotations = parts
    wide = np.zeros((count, 3, 4), np.uint8)
    wide[..., 1:] = positions.reshape(count, 3, 3)  # the high three bytes, so that the sign comes along
    fixed = wide.view("<i4")[..., 0] >> 8
    back = np.argsort(AXES)
    return FrozenSplats(
        means=(fixed / np.float64(2**bits)).astype(np.float32)[:, back],
        quats=_unpacked_rotations(rotations, version),
        scales=np.exp(scales.astype(np.float32) / 16 - 10)[:, back],
        opacities=alphas[:, 0].astype(np.float32) / 255,
        rgbs=np.clip(0.5 + C0 * (colors.astype(np.float32) / 255 - 0.5) / COLOR_SCALE, 0, 1).astype(np.float32),
    )


def _inflate(data: bytes) -> bytes:
    """The stream of a gzip file, never more than the largest scene needs."""
    limit = HEADER.size + MOST * (20 + HARMONICS[-1])
    stream = zlib.decompressobj(wbits=31)
    inflated = stream.decompress(data, limit)
    if not stream.eof:
        raise ValueError("its gzip stream is cut short, or larger than any scene that is accepted")
    return inflated


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _packed_rotations(quats: np.ndarray) -> np.ndarray:
    """Rotations [N, 4] wxyz of our frame as 32-bit words [N] of the format's."""
    xyzw = quats.astype(np.float64)[:, [1 + axis for axis in AXES] + [0]]
    xyzw /= np.linalg.norm(xyzw, axis=1, keepdims=True)
    largest = np.abs(xyzw).argmax(1)
    xyzw *= np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1, 1)
    words = largest.astype("<u4")
    for index in range(4):
        part = xyzw[:, index]
        size = np.minimum(np.round(511 * np.abs(part) * np.sqrt(2)), 511).astype("<u4")
        words = np.where(index == largest, words, (words << 10) | ((part < 0).astype("<u4") << 9) | size)
    return words.astype("<u4")


def _unpacked_rotations(packed: np.ndarray, version: int) -> np.ndarray:
    """Unit rotations [N, 4] wxyz of our frame."""
    if version == 2:
        xyz = packed.astype(np.float32) / 127.5 - 1
        xyzw = np.concatenate([xyz, np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True)))], 1)
    else:
        words = np.ascontiguousarray(packed).view("<u4")[:, 0]
        largest = words >> 30
        xyzw = np.zeros((len(words), 4), np.float32)
        for index in (3, 2, 1, 0):
            stored = index != largest
            part = (words & 511) * np.float32(np.sqrt(0.5) / 511) * np.where(words & 512, -1, 1)
            xyzw[stored, index] = part[stored]
            words = np.where(stored, words >> 10, words)
        rest = np.sqrt(np.maximum(0, 1 - (xyzw**2).sum(1)))
        xyzw[np.arange(len(words)), largest] = rest
    xyzw /= np.maximum(np.linalg.norm(xyzw, axis=1, keepdims=True), 1e-12)
    x, y, z = (xyzw[:, list(AXES).index(axis)] for axis in range(3))
    return np.stack([xyzw[:, 3], x, y, z], 1).astype(np.float32)
