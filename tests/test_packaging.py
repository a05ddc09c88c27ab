"""What an installed dreamerxl holds: every package, its data, and the presets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_named(setuptools_table: dict[str, Any]) -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "dreamerxl").rglob("__init__.py")}
    assert set(setuptools_table["packages"]) == found | {"dreamerxl.presets"}


def test_every_file_that_is_not_code_is_packed(setuptools_table: dict[str, Any]) -> None:
    for package, patterns in setuptools_table["package-data"].items():
        folder = ROOT / setuptools_table["package-dir"][package]
        packed = {path for pattern in patterns for path in folder.glob(pattern)}
        there = {
            path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
        }
        assert packed >= there, sorted(there - packed)
