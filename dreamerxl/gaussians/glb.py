"""Reading the surfaces of a .glb (binary glTF 2.0), with the colours of vertices, materials and base colour textures.

Everything is in the one file: what lies elsewhere is not opened. The header is checked against the file's size, and
every accessor against its buffer, before any number is read. Skins, morph targets, lights and animations are passed over.
Coordinates stay glTF's: y up, the front towards +z.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamerxl.gaussians.surface import MAX_TEXTURE_PIXELS, MAX_TRIANGLES, Refused, Surface

MAX_BYTES = 1_000_000_000
MAX_NODES = 20_000
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES, STRIP, FAN = 4, 5, 6
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
UNREAD = (*COMPRESSED, "KHR_texture_basisu", "EXT_texture_webp")


def read_glb(path: Path) -> list[Surface]:
    """The surfaces of a .glb, placed by its scene. Raises Refused, or OSError where it cannot be opened."""
    tree, body = _chunks(path)
    file = _File(tree, body)
    return list(file.surfaces())


def _chunks(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary part."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise Refused(f"has {size:,} bytes; at most {MAX_BYTES:,} are accepted")
    data = path.read_bytes()
    if len(data) < 20 or data[:4] != b"glTF":
        raise Refused("is not a .glb: it does not begin with 'glTF'")
    version, length, head, kind = struct.unpack("<III4s", data[4:20])
    if version != 2 or kind != b"JSON":
        raise Refused(f"is a .glb of version {version}; version 2 is accepted")
    if length > len(data) or 20 + head > len(data):
        raise Refused(f"is cut short: its header promises {length:,} bytes, {len(data):,} are there")
    try:
        tree = json.loads(data[20 : 20 + head])
    except (ValueError, RecursionError):
        raise Refused("has a header that is not JSON") from None
    if not isinstance(tree, dict):
        raise Refused("has a header that is not a table")
    needed = [name for name in _list(tree, "extensionsRequired") if name in UNREAD]
    if needed:
        kind = "compressed meshes" if needed[0] in COMPRESSED else "textures of a special format"
        raise Refused(f"has {kind} ({needed[0]}), which are not read; export it without")
    start = 20 + head + 8
    return tree, data[start : start + struct.unpack("<I", data[start - 8 : start - 4])[0]] if len(data) >= start else b""


class _File:
    """One .glb: its tree, its numbers, and the images that have been decoded."""

    def __init__(self, tree: dict[str, Any], body: bytes) -> None:
        self.tree, self.body = tree, body
        self.images: dict[int, np.ndarray] = {}
        self.triangles = 0

    def surfaces(self) -> Iterator[Surface]:
        """Every primitive of every mesh, once for each node that shows it."""
        nodes = _list(self.tree, "nodes")
        scenes = _list(self.tree, "scenes")
        roots = _list(_item(scenes, self.tree.get("scene", 0), "scenes"), "nodes") if scenes else list(range(len(nodes)))
        waiting, seen = [(root, np.eye(4)) for root in roots], 0
        while waiting:
            index, above = waiting.pop()
            node = _item(nodes, index, "nodes")
            seen += 1
            if seen > MAX_NODES:
                raise Refused(f"has more than {MAX_NODES:,} nodes, or nodes that contain themselves")
            place = above @ _matrix(node)
            waiting += [(child, place) for child in _list(node, "children")]
            if "mesh" in node:
                for primitive in _list(_item(_list(self.tree, "meshes"), node["mesh"], "meshes"), "primitives"):
                    surface = self.surface(primitive, place)
                    if surface is not None:
                        yield surface

    def surface(self, primitive: Any, place: np.ndarray) -> Surface | None:
        """The triangles of a primitive in world coordinates; None for points and lines."""
        if not isinstance(primitive, dict) or primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN):
            return None
        attributes = primitive.get("attributes")
        if not isinstance(attributes, dict) or "POSITION" not in attributes:
            return None
        positions = self.numbers(attributes["POSITION"], 3)
        faces = self.faces(primitive, len(positions))
        self.triangles += len(faces)
        if self.triangles > MAX_TRIANGLES:
            raise Refused(f"has more than {MAX_TRIANGLES:,} triangles")
        world = positions @ place[:3, :3].T + place[:3, 3]
        tints = np.ones_like(positions)
        if "COLOR_0" in attributes:
            tints = self.numbers(attributes["COLOR_0"], 3, 4)[:, :3]
        factor, texture, channel = self.material(primitive.get("material"))
        uv = None
        if texture is not None and f"TEXCOORD_{channel}" in attributes:
            uv = self.numbers(attributes[f"TEXCOORD_{channel}"], 2)
        for name, values in (("COLOR_0", tints), ("TEXCOORD", uv)):
            if values is not None and len(values) != len(positions):
                raise Refused(f"has {len(positions):,} positions and {len(values):,} of {name}")
        return Surface(world[faces], (tints * factor)[faces], None if uv is None else uv[faces], texture)

    def faces(self, primitive: dict[str, Any], count: int) -> np.ndarray:
        """Vertex numbers [T, 3] of a primitive's triangles."""
        order = np.arange(count)
        if "indices" in primitive:
            order = self.numbers(primitive["indices"], 1, scaled=False)[:, 0].astype(np.int64)
            if len(order) and not 0 <= order.max() < count:
                raise Refused(f"has a triangle with vertex {order.max():,} of {count:,}")
        mode = primitive.get("mode", TRIANGLES)
        if mode == TRIANGLES:
            return order[: len(order) // 3 * 3].reshape(-1, 3)
        if len(order) < 3:
            return order[:0].reshape(0, 3)
        first = order[:-2] if mode == STRIP else np.full(len(order) - 2, order[0])
        return np.stack([first, order[1:-1], order[2:]], -1)

    def material(self, index: Any) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Base colour [3] in linear light, texture or None, and which set of texture coordinates it uses."""
        if index is None:
            return np.ones(3), None, 0
        material = _item(_list(self.tree, "materials"), index, "materials")
        rough = material.get("pbrMetallicRoughness")
        base = rough if isinstance(rough, dict) else {}
        factor = base.get("baseColorFactor", [1, 1, 1, 1])
        if not (isinstance(factor, list) and len(factor) >= 3 and all(isinstance(f, (int, float)) for f in factor)):
            raise Refused("has a base colour that is not four numbers")
        named = base.get("baseColorTexture")
        if not isinstance(named, dict):
            return np.array(factor[:3], float), None, 0
        texture = _item(_list(self.tree, "textures"), named.get("index"), "textures")
        channel = named.get("texCoord", 0)
        if "source" not in texture or not isinstance(channel, int):
            return np.array(factor[:3], float), None, 0
        return np.array(factor[:3], float), self.image(texture["source"]), channel

    def image(self, index: Any) -> np.ndarray:
        """Pixels [H, W, 3] of an image inside the file."""
        image = _item(_list(self.tree, "images"), index, "images")
        if index not in self.images:
            inside = "bufferView" in image
            self.images[index] = decode_image(self.view(image["bufferView"]) if inside else _inline(image.get("uri")))
        return self.images[index]

    def view(self, index: Any) -> bytes:
        """The bytes of a buffer view."""
        view = _item(_list(self.tree, "bufferViews"), index, "bufferViews")
        buffer = _item(_list(self.tree, "buffers"), view.get("buffer", 0), "buffers")
        data = self.body if "uri" not in buffer else _inline(buffer["uri"])
        start, length = _whole(view, "byteOffset", 0), _whole(view, "byteLength", None)
        if start + length > len(data):
            raise Refused(f"is cut short: a part of it should reach to byte {start + length:,} of {len(data):,}")
        return data[start : start + length]

    def numbers(self, index: Any, *widths: int, scaled: bool = True) -> np.ndarray:
        """An accessor's numbers [count, width], as float64; whole numbers that stand for 0..1 are scaled to it."""
        accessor = _item(_list(self.tree, "accessors"), index, "accessors")
        kind, width = COMPONENTS.get(accessor.get("componentType", 0)), WIDTHS.get(accessor.get("type", ""))
        if kind is None or width not in widths:
            raise Refused(f"has an accessor of {accessor.get('type')} where {' or '.join(map(str, widths))} numbers are needed")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise Refused("has sparse or empty accessors, which are not read")
        count, start = _whole(accessor, "count", None), _whole(accessor, "byteOffset", 0)
        if count == 0:
            return np.zeros((0, width))
        data = self.view(accessor["bufferView"])
        row = np.dtype(kind).itemsize * width
        stride = _whole(_list(self.tree, "bufferViews")[accessor["bufferView"]], "byteStride", row) or row
        if stride < row or start + (count - 1) * stride + row > len(data):
            raise Refused(f"has an accessor of {count:,} entries that does not fit into its buffer")
        used = np.frombuffer(data, np.uint8, (count - 1) * stride + row, start)
        rows = np.lib.stride_tricks.as_strided(used, (count, row), (stride, 1))
        values = np.ascontiguousarray(rows).view(kind)
        if scaled and accessor.get("normalized"):
            return np.maximum(values / np.iinfo(values.dtype).max, -1.0) if values.dtype.kind in "iu" else values.astype(float)
        return values.astype(np.float64)


def decode_image(data: bytes) -> np.ndarray:
    """Pixels [H, W, 3] uint8 of a PNG, JPEG, WebP or BMP."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            return pixels(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(f"has a texture that cannot be read ({type(error).__name__})") from None


def pixels(image: Image.Image) -> np.ndarray:
    """Pixels [H, W, 3] uint8 of an opened image, unless they are too many."""
    if image.width * image.height > MAX_TEXTURE_PIXELS:
        size = f"{image.width} x {image.height}"
        raise Refused(f"has a texture of {size} pixels; at most {MAX_TEXTURE_PIXELS:,} are accepted")
    return np.array(image.convert("RGB"))


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """A node's place in its parent [4, 4]."""
    try:
        if "matrix" in node:
            return np.array(node["matrix"], float).reshape(4, 4).T
        matrix = np.eye(4)
        x, y, z, w = (float(v) for v in node.get("rotation", (0, 0, 0, 1)))
        length = np.sqrt(x * x + y * y + z * z + w * w) or 1.0
        x, y, z, w = x / length, y / length, z / length, w / length
        turn = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, :3] = np.array(turn) * np.array(node.get("scale", (1, 1, 1)), float).reshape(1, 3)
        matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), float).reshape(3)
        return matrix
    except (TypeError, ValueError):
        raise Refused("has a node whose place is not made of numbers") from None


def _inline(uri: Any) -> bytes:
    head, comma, data = uri.partition(",") if isinstance(uri, str) else ("", "", "")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise Refused("refers to other files, which are not opened; export it as one .glb with everything embedded")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("has embedded data that is not base64") from None


def _list(table: Any, name: str) -> list[Any]:
    value = table.get(name, []) if isinstance(table, dict) else []
    if not isinstance(value, list):
        raise Refused(f"has {name} that are not a list")
    return value


def _item(values: list[Any], index: Any, name: str) -> dict[str, Any]:
    known = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(values)
    if not known or not isinstance(values[index], dict):
        raise Refused(f"refers to entry {str(index)[:20]} of its {len(values)} {name}")
    return values[index]


def _whole(table: dict[str, Any], name: str, default: int | None) -> int:
    value = table.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_BYTES:
        raise Refused(f"has a {name} that is not a count")
    return value
