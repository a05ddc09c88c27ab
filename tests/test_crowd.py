"""Twenty threads that ask everything of one manager at once: no deadlock, no run lost, nothing but sentences."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_training import fake_make_trainer

from dreamerxl.config import Settings
from dreamerxl.errors import DreamerError
from dreamerxl.runs.limits import Limits
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.run import Run
from dreamerxl.runs.worker import Pace

THREADS, TURNS, QUEUE = 20, 40, 6
ORDER = ("queued", "loading", "started")


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Threads take turns a hundred times as often, so that they meet in the middle of things."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


class Visitor:
    """Does what comes to mind with its own runs, and looks at everybody's."""

    def __init__(self, manager: RunManager, number: int) -> None:
        self.manager, self.number, self.chance = manager, number, random.Random(number)
        self.mine: list[Run] = []
        self.deleted: set[str] = set()
        self.told: Counter[str] = Counter()  # first words of the sentences
        self.failure: BaseException | None = None

    def visit(self) -> None:
        try:
            for _ in range(TURNS):
                self.turn()
        except BaseException as error:
            self.failure = error

    def turn(self) -> None:
        manager, chance = self.manager, self.chance
        run = chance.choice(self.mine) if self.mine else None
        deeds: list[Callable[[], object]] = [self.submit, self.submit, manager.runs, manager.queue, self.look]
        if run is not None:
            deeds += [
                lambda: manager.stop(run.id),
                lambda: manager.pause(run.id),
                lambda: manager.resume(run.id),
                lambda: manager.change(run.id, chance.choice([None, 0, 1, 7]), {"gamma": chance.random()}),
                lambda: manager.watch(run.id, 0.2),
                lambda: self.delete(run),
            ]
        try:
            chance.choice(deeds)()
        except DreamerError as error:
            self.told[" ".join(str(error).split()[:3])] += 1

    def submit(self) -> None:
        settings = Settings(prompt=f"visitor {self.number}", seed=len(self.mine), iterations=self.chance.randint(1, 8))
        self.mine.append(self.manager.submit(settings, f"visitor {self.number}"))

    def look(self) -> None:
        current = self.manager.current()
        view = current.view if current is not None else None
        assert view is None or 0 <= view.iteration <= view.iterations

    def delete(self, run: Run) -> None:
        self.manager.delete(run.id)
        self.deleted.add(run.id)
        self.mine.remove(run)


def test_a_crowd_neither_locks_nor_confuses_the_manager(tmp_path: Path) -> None:
    manager = RunManager(
        tmp_path, fake_make_trainer(), Limits(waiting=QUEUE), pace=Pace(snapshot_seconds=0.01, pause_limit_seconds=0.01)
    )
    crowd = [Visitor(manager, number) for number in range(THREADS)]
    threads = [threading.Thread(target=visitor.visit) for visitor in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads) and manager.alive
    assert [visitor.failure for visitor in crowd if visitor.failure is not None] == []
    told = sum((visitor.told for visitor in crowd), Counter())
    assert told["The queue is"] > 0, "some came when the queue was full"
    assert {words.split()[0] for words in told} <= {"The", "variants.7.gamma", "There"}

    while len(manager.queue()) == QUEUE:
        time.sleep(0.01)
    last = manager.submit(Settings(prompt="and one more", iterations=3))
    assert last.wait(60) and last.view.status == "done"
    assert manager.close(60)
    runs = [last, *(run for visitor in crowd for run in visitor.mine)]
    assert all(run.wait(0) for run in runs) and {"done", "stopped"} == {run.view.status for run in runs}
    for visitor in crowd:
        assert {run.view.settings.prompt for run in visitor.mine} <= {f"visitor {visitor.number}"}
        for run in visitor.mine:
            assert run.view.status in ("done", "stopped"), run.view.reason
            kinds = [event.kind for event in run.view.events]
            assert [kind for kind in ORDER if kind in kinds] == [kind for kind in kinds if kind in ORDER]
            assert kinds[-1] == run.view.status and sum(kind in ("done", "stopped", "failed") for kind in kinds) == 1
            assert run.view.status != "done" or run.view.iteration == run.view.iterations
    found = {view.id for view in RunManager(tmp_path).runs()}
    assert found == {run.id for run in runs}, "none is missing, and none that was deleted is there"
    assert not found & {run_id for visitor in crowd for run_id in visitor.deleted}
