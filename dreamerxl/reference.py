"""Every setting as a Markdown page, made from what config.py says of it: ``python -m dreamerxl.reference > docs/settings.md``."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from typing import Any

from dreamerxl import config
from dreamerxl.config import Settings, leaf_fields

INTRODUCTION = """# Every setting

What a name stands for, its range and its default. On the command line `--set views.batch=2`, in a preset

```yaml
views:
  batch: 2
```

and from Python `settings.override({"views.batch": 2})`. `variants.gamma` changes every side, `variants.1.gamma` the second.
The defaults are the paper's; presets change them. This page is made by `python -m dreamerxl.reference`.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for section, entries in itertools.groupby(leaf_fields(), key=lambda entry: entry[0].rpartition(".")[0]):
        parts.append(f"## {section or 'the run'}\n")
        parts += [f"{text}\n" for text in _about(section)]
        parts.append("| name | default | accepted | effect |\n| --- | --- | --- | --- |")
        parts += [_row(name, field) for name, field in entries]
        parts.append("")
    return "\n".join(parts)


def _about(section: str) -> Iterator[str]:
    hints = typing.get_type_hints(Settings)
    kind = config.Variant if section == "variants" else hints.get(section)
    if dataclasses.is_dataclass(kind) and kind.__doc__:
        yield " ".join(kind.__doc__.split())


def _row(name: str, field: dataclasses.Field[Any]) -> str:
    data = field.metadata
    choices = _choices(name)
    unit = f" {data['unit']}" if data["unit"] else ""
    accepted = ", ".join(choices)
    if not choices and data["low"] is not None:
        accepted = f"{_number(data['low'])} to {_number(data['high'])}{unit}"
    default = "off" if field.default is None else f"`{field.default}`" if field.default != "" else "empty"
    effect = data["help"].replace("|", "\\|")
    return f"| `{name}` | {default} | {accepted} | {effect} |"


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) and abs(value) < 1e10 else f"{value:g}"


def _choices(name: str) -> list[str]:
    """What a name may be where it is one of a few words, or yes and no."""
    kind: Any = Settings
    for part in name.split("."):
        kind = typing.get_type_hints(kind)[part]
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return [f"`{choice}`" for choice in typing.get_args(kind)]
    return ["`true`", "`false`"] if kind is bool else []


if __name__ == "__main__":
    print(page(), end="")
