"""What an installed dreamerxl and its image hold, and that what is said in two places is the same."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import dreamerxl

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


def test_the_image_gets_what_it_copies_and_the_notices() -> None:
    """.dockerignore lets in what the Dockerfile copies, and all of it is in the repository."""
    lines = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == let_in and all((ROOT / name).exists() for name in copied)
    assert {"LICENSE", "THIRD_PARTY.md"} <= copied


def test_the_notices_name_every_package_that_is_installed() -> None:
    notices = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    for file in ROOT.glob("requirements*.txt"):
        for name in re.findall(r"^([a-zA-Z][\w-]*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"\b{re.escape(name.lower())}\b", notices), f"{file.name}: {name}"


def test_the_space_answers_where_its_front_matter_says() -> None:
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert front["sdk"] == "docker" and len(front["short_description"]) <= 60
    assert f"EXPOSE {front['app_port']}\n" in container and f'"--port", "{front["app_port"]}"' in container


def test_hooks_and_tests_use_the_same_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    pinned = {need for hook in hooks for need in hook["additional_dependencies"] if need.startswith("ruff")}
    assert pinned == {f"ruff=={importlib.metadata.version('ruff')}"}
    assert pinned <= set((ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines())


def test_the_version_stands_in_one_place() -> None:
    """Tracked texts that hold it: the package, and the changelog's newest heading."""
    version = re.escape(dreamerxl.__version__)
    found = subprocess.run(
        ["git", "grep", "-lE", rf"(^|[^0-9.=]){version}([^0-9.]|$)", "--", "*.py", "*.md", "*.toml", "*.cff", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    if not found:
        pytest.skip("this is no checkout of the repository")
    assert set(found) == {"dreamerxl/__init__.py", "CHANGELOG.md"}
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == dreamerxl.__version__
