"""Sweeps: every case of a grid or list, under every prompt and seed: ``python -m dreamerxl sweep SWEEP.yaml --out DIR``.

    case     changes of settings with a name; cases that differ in their side alone run side by side, up to four
    task     one run: a prompt, a seed, some cases. Its id is a hash of its settings, so an edited sweep never takes over
             what other settings gave
    outcome  what a task left: measures and a thumbnail for each case, as outcomes/ID.json
A sweep that is started again does what is missing; a run that was cut off goes on from its last checkpoint.

    DIR/outcomes/ID.json  DIR/runs/ID/try-1/ (a run folder)  DIR/report.html  DIR/differences.svg  DIR/data.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dreamerxl.config import LARGEST_FILE, Settings, load_preset, preset_names
from dreamerxl.errors import SettingsError
from dreamerxl.files import replacing
from dreamerxl.lab.evaluate import ALL, EMBEDDED

PROBED = ("pseudo truth spread", "target spread", "gradient spread")  # of the final scene under several noises (lab.probe)
MOST_SIDES = 4
MOST_RUNS = 100_000
KEYS = ("name", "description", "extends", "settings", "prompts", "seeds", "grid", "cases", "baseline", "sides_per_run", "metrics")


@dataclass(frozen=True)
class Case:
    """A name and what it changes, by dotted setting."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One run of a sweep. Plain values, so that it can be sent anywhere."""

    id: str
    prompt: str
    seed: int
    cases: tuple[str, ...]  # one a side
    settings: Settings


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says it."""

    name: str
    description: str
    base: Settings
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    cases: tuple[Case, ...]
    baseline: str
    sides_per_run: int = MOST_SIDES
    metrics: tuple[str, ...] = (*EMBEDDED, *PROBED)
    source: str = field(default="", compare=False)

    def tasks(self) -> list[Task]:
        """Every run, seed by seed and prompt by prompt, so that a part of them is a smaller sweep. Raises SettingsError for
        a case that no run can have."""
        groups = self._groups()
        tasks = []
        for seed, prompt, group in itertools.product(self.seeds, self.prompts, groups):
            variants = tuple(settings.variants[0] for _, settings in group)
            settings = dataclasses.replace(group[0][1], prompt=prompt, seed=seed, variants=variants)
            names = tuple(name for name, _ in group)
            tasks.append(Task(_hash(settings, names), prompt, seed, names, settings))
        return tasks

    def settings_of(self, case: Case) -> Settings:
        """The settings of a case, with one side: the base's last, changed. Raises SettingsError."""
        one = dataclasses.replace(self.base, variants=self.base.variants[-1:])
        try:
            return one.override(dict(case.changes))
        except SettingsError as error:
            raise SettingsError(f"The case {case.name!r} of the sweep cannot be run: {error}") from None

    def _groups(self) -> list[list[tuple[str, Settings]]]:
        """Cases that share a run. Two sides by VSD would be each other's particles, so there is one at most."""
        groups: list[list[tuple[str, Settings]]] = []
        for case in self.cases:
            settings = self.settings_of(case)
            for group in groups:
                both_vsd = settings.variants[0].method == "vsd" and any(one.variants[0].method == "vsd" for _, one in group)
                if len(group) < self.sides_per_run and not both_vsd and _shared(group[0][1]) == _shared(settings):
                    group.append((case.name, settings))
                    break
            else:
                groups.append([(case.name, settings)])
        return groups


def _shared(settings: Settings) -> dict[str, Any]:
    """What holds for every side of a run."""
    return {name: value for name, value in settings.to_dict().items() if name != "variants"}


def _hash(settings: Settings, cases: Sequence[str]) -> str:
    plain = json.dumps([settings.to_dict() | {"description": ""}, list(cases)], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def load_sweep(path: Path) -> Sweep:
    """A sweep from its YAML file. Raises SettingsError with a sentence."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingsError(f"The sweep file {path.name} is larger than {LARGEST_FILE:,} bytes.")
        source = path.read_text(encoding="utf-8")
        values = yaml.safe_load(source)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The sweep file {path.name} cannot be read: {error}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"The sweep file {path.name} is not plain YAML: {str(error).splitlines()[0]}.") from None
    return read_sweep(values, source)


def read_sweep(values: Any, source: str = "") -> Sweep:
    """A sweep from plain values. Raises SettingsError with a sentence."""
    if not isinstance(values, dict):
        raise SettingsError(f"A sweep is a group of entries; accepted: {', '.join(KEYS)}.")
    for key in values:
        if key not in KEYS:
            raise SettingsError(f"{str(key)[:40]!r} is no entry of a sweep; accepted: {', '.join(KEYS)}.")
    preset = values.get("extends", "embedded")
    if preset not in preset_names():
        raise SettingsError(f"The sweep extends {str(preset)[:40]!r}, which is no preset; 'dreamerxl presets' lists them.")
    base = load_preset(preset).override(_group(values, "settings"))
    prompts = tuple(_list(values, "prompts", str)) or (base.prompt,)
    seeds = tuple(_list(values, "seeds", int)) or (base.seed,)
    for name, entries in (("prompts", prompts), ("seeds", seeds)):
        if len(set(entries)) < len(entries):
            raise SettingsError(f"The sweep's {name} name one of them twice; each counts once.")
    if not all(prompt.strip() for prompt in prompts):
        raise SettingsError("The sweep has an empty prompt; say in words what to make.")
    cases = _cases(values)
    sides = values.get("sides_per_run", MOST_SIDES)
    if not isinstance(sides, int) or isinstance(sides, bool) or not 1 <= sides <= MOST_SIDES:
        raise SettingsError(f"sides_per_run is {str(sides)[:20]}; 1 to {MOST_SIDES} are accepted.")
    metrics = tuple(_list(values, "metrics", str)) or (*EMBEDDED, *PROBED)
    for name in metrics:
        if name not in (*ALL, *PROBED):
            raise SettingsError(f"The sweep asks for the metric {name[:40]!r}; accepted: {', '.join((*ALL, *PROBED))}.")
    baseline = values.get("baseline", cases[0].name)
    if baseline not in [case.name for case in cases]:
        raise SettingsError(f"The baseline {str(baseline)[:60]!r} is no case; cases: {'; '.join(case.name for case in cases)}.")
    count = len(prompts) * len(seeds) * len(cases)
    if count > MOST_RUNS:
        raise SettingsError(f"The sweep has {count:,} sides; at most {MOST_RUNS:,} are accepted.")
    name, description = (str(values.get(key, default)) for key, default in (("name", "sweep"), ("description", "")))
    found = Sweep(name, description, base, prompts, seeds, cases, baseline, sides, metrics, source)
    found.tasks()  # what cannot be run is told now
    return found


def _cases(values: Mapping[str, Any]) -> tuple[Case, ...]:
    """The list of cases, each crossed with the grid."""
    grid = _group(values, "grid")
    for name, options in grid.items():
        if not isinstance(options, list) or not options:
            raise SettingsError(f"The grid of {name} is {str(options)[:40]!r}; a list of values is accepted.")
    listed = values.get("cases") or [{}]
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise SettingsError("cases is not a list of groups of settings, each with a name.")
    found = []
    for entry, chosen in itertools.product(listed, itertools.product(*grid.values())):
        point = dict(zip(grid, chosen, strict=True))
        words = [str(entry["name"])] if "name" in entry else []
        words += [f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in point.items()]
        changes = {str(key): value for key, value in entry.items() if key != "name"} | point
        for key in changes:
            if key in ("prompt", "seed", "variants"):
                raise SettingsError(f"A case changes {key}; prompts and seeds have lists of their own, sides single settings.")
        found.append(Case(", ".join(words) or "the base", changes))
    names = [case.name for case in found]
    if len(set(names)) < len(names):
        raise SettingsError("Two cases of the sweep have the same name; give each entry of 'cases' its own.")
    return tuple(found)


def _group(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SettingsError(f"{name} of the sweep is {str(found)[:40]!r}; settings by dotted name are accepted.")
    return found


def _list(values: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    found = values.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, kind) and not isinstance(entry, bool) for entry in found):
        wanted = "texts" if kind is str else "whole numbers"
        raise SettingsError(f"{name} of the sweep is {str(found)[:40]!r}; a list of {wanted} is accepted.")
    return found


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "off" if value is None or value is False else str(value)


def piece_of(tasks: Sequence[Task], piece: str) -> list[Task]:
    """The K-th of N equal pieces, 'K/N', every N-th task. Raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", piece)
    place, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= place <= count:
        raise SettingsError(f"--piece is {piece[:20]!r}; K/N with K from 1 to N is accepted, for example 2/8.")
    return list(tasks[place - 1 :: count])


def outcome_path(root: Path, task: Task) -> Path:
    """Where a task's outcome stands."""
    return root / "outcomes" / f"{task.id}.json"


def read_outcome(root: Path, task: Task) -> dict[str, Any] | None:
    """A task's outcome, or None where it has none that can be read."""
    try:
        outcome = json.loads(outcome_path(root, task).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if isinstance(outcome, dict) and outcome.get("id") == task.id else None


def write_outcome(root: Path, task: Task, outcome: Mapping[str, Any]) -> None:
    """Keep a task's outcome. Raises RunFolderError where it cannot be written."""
    with replacing(outcome_path(root, task)) as temporary:
        temporary.write_text(json.dumps(outcome, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_done(outcome: Mapping[str, Any] | None) -> bool:
    """Whether a task need not be run again; one that failed is tried again when the sweep is started again."""
    return outcome is not None and "error" not in outcome
