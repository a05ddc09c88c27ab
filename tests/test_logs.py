"""The program's log has every event and nothing that a visitor typed; a run's log has the whole of its own story."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fake_training import FakeTrainer, decode, fake_make_trainer

from dreamerxl import logs
from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError, RunFolderError
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import Prepared

SECRET = "a duck that nobody else may know of"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def server_log(tmp_path: Path) -> Iterator[Path]:
    close = logs.open_server_log(tmp_path)
    yield tmp_path / logs.SERVER_LOG
    close()


def test_the_servers_log_tells_of_runs_and_errors_but_not_what_was_typed(
    server_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing: list[Any] = [ValueError(f"no idea what {SECRET} is"), DreamerError(f"{SECRET}: not known"), None]

    def make(settings: Settings, say: Any) -> Prepared:
        say(f"Thinking of {settings.prompt}.")
        error = failing.pop(0)
        return Prepared(FakeTrainer(settings, fail_at=None if error is None else 2, error=error), decode, notices=(SECRET,))

    manager = RunManager(tmp_path, make)
    runs = [manager.submit(Settings(prompt=SECRET, iterations=4)) for _ in range(3)]
    assert all(run.wait(20) for run in runs) and manager.close(20)
    try:
        raise KeyError(SECRET)
    except KeyError:
        logging.getLogger("dreamerxl.web.desk").exception("A file could not be made.")

    assert SECRET not in server_log.read_text() and SECRET not in capsys.readouterr().err
    lines = read(server_log)
    assert all({"time", "level", "event"} <= line.keys() and datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    told = {run.id: [line["event"] for line in lines if line.get("run") == run.id] for run in runs}
    begun = ["run queued", "run loading", "run started"]
    assert told[runs[0].id] == [*begun, "an error ended a run", "run failed"]
    assert told[runs[2].id] == [*begun, "run done"]
    error = next(line for line in lines if line["event"] == "an error ended a run")
    assert error["error"] == "ValueError" and "fake_training.py" in error["where"][-1] and error["level"] == "error"
    assert lines[-1] | {"time": "", "where": []} == {
        "time": "",
        "level": "error",
        "event": "A file could not be made.",
        "logger": "dreamerxl.web.desk",
        "error": "KeyError",
        "where": [],
    }


def test_a_runs_log_has_its_events_and_its_error_in_full(tmp_path: Path) -> None:
    manager = RunManager(tmp_path, fake_make_trainer(fail_at=2, error=ValueError(f"no idea what {SECRET} is")))
    run = manager.submit(Settings(prompt="a duck", iterations=4))
    assert run.wait(20) and manager.close(20)
    lines = read(run.folder.path / "log.jsonl")
    assert [line["event"] for line in lines] == ["queued", "loading", "started", "ValueError", "failed"]
    assert [line["level"] for line in lines] == ["info", "info", "info", "error", "error"]
    assert SECRET in lines[3]["text"] and "fake_training.py" in lines[3]["traceback"]
    assert (lines[4]["run"], lines[4]["iteration"], lines[4]["text"]) == (run.id, 2, run.view.reason)


def test_the_servers_log_is_bounded_and_says_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 10_000)
    close = logs.open_server_log(tmp_path / "runs")
    for index in range(1000):
        logs.tell("an event", index=index)
    close()
    logs.tell("an event that nobody writes down", logging.ERROR)
    kept = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(logs.SERVER_LOG)]
    assert len(kept) == 2 and all(path.stat().st_size <= 10_000 for path in kept)
    assert read(tmp_path / "runs" / logs.SERVER_LOG)[-1]["index"] == 999
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"server\.jsonl cannot be written"):
        logs.open_server_log(tmp_path / "file")
