"""The queue and the worker thread, driven by a trainer that costs nothing."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from fake_training import FakeTrainer, decode, fake_make_trainer

from dreamerxl.config import Settings, Variant
from dreamerxl.errors import DreamerError, RunFolderError, SettingsError, WeightsError
from dreamerxl.runs.limits import Limits
from dreamerxl.runs.manager import RunManager
from dreamerxl.runs.worker import SLOWEST_SNAPSHOTS_S, Pace, Prepared, snapshot_interval

QUICK = Settings(prompt="a ball", iterations=20)
LONG = dataclasses.replace(QUICK, iterations=100_000)


def until(condition, seconds=20.0):
    """Wait for a condition; the limit is only there to end a broken test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """The worker collects garbage after each run, which takes long among the modules of a whole test session."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def start(tmp_path):
    """Makes managers with a fake trainer, and closes them."""
    made = []

    def make(make_trainer=None, **options) -> RunManager:
        made.append(RunManager(tmp_path / "runs", make_trainer or fake_make_trainer(0.001), **options))
        return made[-1]

    yield make
    for manager in made:
        assert manager.close(20)


def test_a_run_goes_from_queued_to_done_and_tells_of_it(start):
    run = start(pace=Pace(snapshot_seconds=0)).submit(QUICK, owner="me")
    assert run.wait(20)
    view = run.view
    assert (view.status, view.iteration, view.iterations, view.owner, view.reason) == ("done", 20, 20, "me", "")
    assert [event.kind for event in view.events] == ["queued", "loading", "started", "done"]
    assert (view.model, view.device, view.notices) == ("a fake model", "cpu", ("A notice.",))
    assert view.its_per_s > 0
    assert view.eta_s == 0
    assert view.labels == ("ISM", "TSM")
    assert view.history.iterations == tuple(range(1, 21))
    assert len(view.history.sides) == 2
    assert len(view.history.sides[1]["grad_norm"]) == 20
    assert view.history.sides[0]["clipped_norm"][3] == pytest.approx(view.history.sides[0]["grad_norm"][3] / 4)


def test_snapshots_are_detached_and_cannot_be_changed(start):
    gate = threading.Semaphore(0)
    make = fake_make_trainer(gate=gate)
    run = start(make).submit(QUICK)
    gate.release(1)
    until(lambda: run.view.snapshot is not None)
    snapshot = run.view.snapshot
    assert (snapshot.run_id, snapshot.iteration, snapshot.iterations) == (run.id, 1, 20)
    side = snapshot.sides[1]
    assert side.label == "TSM"
    assert side.render.shape == side.gradient.shape == (32, 40, 3)
    for image in (side.render, side.depth, side.x0_hat, side.gradient, side.clipped):
        assert image.dtype == np.uint8
        assert not image.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        side.splats.means[0] = 0
    with pytest.raises(TypeError):
        side.metrics["count"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.view.status = "done"
    before = side.splats.means.copy()
    gate.release(30)
    assert run.wait(20)
    assert np.array_equal(before, side.splats.means)
    assert not np.array_equal(before, run.view.snapshot.sides[1].splats.means)
    assert run.view.snapshot.iteration == 20


def test_snapshots_that_cost_much_come_seldom_but_never_too_seldom():
    pace = Pace(snapshot_seconds=0.7)
    assert snapshot_interval(pace, [0.04, 0.04]) == 0.7
    assert snapshot_interval(pace, [0.04, 0.5]) == 0.7  # one that others held up
    assert snapshot_interval(pace, [0.1, 0.1]) == pytest.approx(1.0)
    assert snapshot_interval(pace, [3.0, 3.0]) == SLOWEST_SNAPSHOTS_S < 2


def test_gradients_before_and_after_clipping_share_a_scale(start):
    run = start().submit(QUICK)
    assert run.wait(20)
    side = run.view.snapshot.sides[0]
    assert side.gradient.astype(int).sum() > side.clipped.astype(int).sum() > 0
    assert (side.depth[:, 0] == 255).all()
    assert (side.depth[:, -1] == (253, 231, 37)).all()


def test_stop_takes_effect_within_two_iterations(start):
    gate = threading.Semaphore(0)
    manager = start(fake_make_trainer(gate=gate))
    run = manager.submit(LONG)
    gate.release(5)
    until(lambda: run.view.iteration == 5)
    manager.stop(run.id)
    gate.release(50)
    assert run.wait(20)
    assert run.view.status == "stopped"
    assert run.view.iteration <= 7
    assert run.view.snapshot.iteration == run.view.iteration
    assert len(list(run.folder.scenes.glob("*.ply"))) == 2


def test_pause_really_pauses_and_resume_goes_on(start):
    manager = start()
    run = manager.submit(LONG)
    until(lambda: run.view.iteration > 3)
    manager.pause(run.id)
    until(lambda: run.view.status == "paused")
    paused = run.view
    assert paused.snapshot.iteration == paused.iteration
    time.sleep(0.1)
    assert run.view.iteration == paused.iteration
    manager.resume(run.id)
    until(lambda: run.view.status == "running" and run.view.iteration > paused.iteration + 3)
    manager.pause(run.id)
    until(lambda: run.view.status == "paused")
    manager.stop(run.id)
    assert run.wait(20)
    assert [event.kind for event in run.view.events][2:] == ["started", "paused", "resumed", "paused", "stopped"]
    assert run.view.events[3].iteration == paused.iteration


def test_runs_wait_in_order_and_know_their_place(start):
    gate = threading.Semaphore(0)
    manager = start(fake_make_trainer(gate=gate))
    runs = [manager.submit(QUICK) for _ in range(4)]
    until(lambda: runs[0].view.status == "running")
    assert manager.current() is runs[0]
    assert manager.queue() == tuple(runs[1:])
    assert [run.view.queue_position for run in runs] == [0, 1, 2, 3]
    manager.stop(runs[2].id)
    assert runs[2].view.status == "stopped"
    assert runs[2].view.iteration == 0
    assert [run.view.queue_position for run in runs] == [0, 1, 0, 2]
    gate.release(200)
    assert all(run.wait(20) for run in runs)
    assert [run.view.status for run in runs] == ["done", "done", "stopped", "done"]
    begun = [next(event.time for event in run.view.events if event.kind == "started") for run in (runs[0], runs[1], runs[3])]
    assert begun == sorted(begun)
    until(lambda: manager.current() is None)


def test_a_full_queue_is_refused_with_a_sentence(start):
    gate = threading.Semaphore(0)
    manager = start(fake_make_trainer(gate=gate), limits=Limits(waiting=2))
    first = manager.submit(QUICK)
    until(lambda: first.view.status == "running")
    manager.submit(QUICK)
    manager.submit(QUICK)
    with pytest.raises(DreamerError, match="The queue is full: 2 runs are waiting"):
        manager.submit(QUICK)
    assert len(manager.runs()) == 3
    gate.release(1000)


def test_what_the_loading_is_at_is_shown_and_a_stop_ends_it(start):
    told, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    make = fake_make_trainer()

    def downloads(settings, say):
        say("Downloading a model: 1.0 GB of 7.0 GB (unet).")
        told.set()
        assert go_on.wait(20)
        try:
            say("Downloading a model: 2.0 GB of 7.0 GB (unet).")
        finally:
            ended.set()
        return make(settings, say)

    manager = start(downloads)
    first = manager.submit(LONG)
    assert told.wait(20)
    assert (first.view.status, first.view.stage) == ("loading", "Downloading a model: 1.0 GB of 7.0 GB (unet).")
    manager.stop(first.id)
    go_on.set()
    assert ended.wait(20)
    assert first.wait(20) and first.view.status == "stopped"
    second = manager.submit(QUICK)
    assert second.wait(20)
    assert (second.view.status, second.view.stage) == ("done", "")
    assert len(make.made) == 1  # the stopped run got no trainer
    assert '"error"' not in (first.folder.path / "log.jsonl").read_text()


def test_a_run_can_be_stopped_while_its_model_loads(start):
    loading, go_on = threading.Event(), threading.Event()
    make = fake_make_trainer()

    def slowly(settings, say):
        loading.set()
        assert go_on.wait(20)
        return make(settings)

    manager = start(slowly)
    first, second = manager.submit(LONG), manager.submit(QUICK)
    assert loading.wait(20)
    assert first.view.status == "loading"
    manager.stop(first.id)
    assert first.wait(0)
    assert first.view.status == "stopped"
    go_on.set()
    assert second.wait(20)
    assert (first.view.status, first.view.iteration, second.view.status) == ("stopped", 0, "done")


def test_pause_before_the_start_pauses_before_the_first_iteration(start):
    gate = threading.Semaphore(0)
    manager = start(fake_make_trainer(gate=gate))
    first, second = manager.submit(QUICK), manager.submit(QUICK)
    manager.pause(second.id)
    gate.release(100)
    until(lambda: second.view.status == "paused")
    assert first.view.status == "done"
    assert second.view.iteration == 0
    manager.resume(second.id)
    assert second.wait(20)
    assert second.view.status == "done"


def test_a_long_pause_gives_way_to_those_who_wait(start):
    manager = start(pace=Pace(pause_limit_seconds=0.05))
    first = manager.submit(LONG)
    manager.pause(first.id)
    until(lambda: first.view.status == "paused")
    second = manager.submit(QUICK)
    assert first.wait(20)
    assert first.view.status == "stopped"
    assert "others waited" in first.view.reason
    assert second.wait(20)


def test_live_changes_reach_the_trainer_and_are_recorded_with_their_iteration(start):
    make = fake_make_trainer(0.001)
    manager = start(make)
    run = manager.submit(LONG)
    until(lambda: run.view.iteration > 3)
    manager.change(run.id, 1, {"gamma": 0.5, "delta_t": 40})
    manager.change(run.id, None, {"clip_color": None})
    until(lambda: len(make.made[0].replaced) == 3)
    manager.stop(run.id)
    assert run.wait(20)
    changes = [event for event in run.view.events if event.kind == "changed"]
    iteration, index, variant = make.made[0].replaced[0]
    assert (iteration, index) == (changes[0].iteration, 1)
    assert variant == dataclasses.replace(LONG.variants[1], gamma=0.5, delta_t=40)
    assert changes[0].details == {"side": 1, "changes": {"gamma": 0.5, "delta_t": 40}}
    assert changes[1].text == "clip_color = off on every side."
    assert [side.clip_color for side in run.view.settings.variants] == [None, None]
    assert run.submitted == LONG


@pytest.mark.parametrize(
    ("side", "changes", "sentence"),
    [
        (1, {"gamma": 2}, "variants.1.gamma is 2; 0 to 1 is accepted."),
        (1, {"gama": 0.5}, "variants.1.gama is not a setting (did you mean variants.1.gamma?)."),
        (2, {"gamma": 0.5}, "variants.2.gamma does not exist; this run has 2 side(s), counted from 0."),
        (None, {"delta_t": "x"}, "variants.0.delta_t is 'x'; a whole number is accepted."),
        (-1, {"gamma": 0.5}, "variants.-1.gamma is not a setting."),
    ],
)
def test_a_live_change_that_does_not_fit_is_refused_at_once(start, side, changes, sentence):
    manager = start()
    run = manager.submit(LONG)
    with pytest.raises(SettingsError) as caught:
        manager.change(run.id, side, changes)
    assert str(caught.value) == sentence
    assert run.view.settings == LONG


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WeightsError("The model is not there."), "The model is not there."),
        (ValueError("the sky fell\nin"), "An unexpected ValueError ended the run: the sky fell."),
        (KeyError(), "An unexpected KeyError ended the run."),
        (MemoryError(), "The memory was not enough"),
    ],
)
def test_a_failure_becomes_the_reason_and_the_next_run_works(start, error, reason):
    broken = []

    def make(settings, say):
        broken.append(FakeTrainer(settings, fail_at=3 if len(broken) == 0 else None, error=error))
        return Prepared(broken[-1], decode)

    manager = start(make)
    first, second = manager.submit(QUICK), manager.submit(QUICK)
    assert first.wait(20)
    assert first.view.status == "failed"
    assert first.view.reason.startswith(reason)
    assert first.view.iteration == 3
    assert type(error).__name__ in (first.folder.path / "log.jsonl").read_text()
    assert "fake_training.py" in (first.folder.path / "log.jsonl").read_text()
    assert len(list(first.folder.scenes.glob("*.ply"))) == 2
    assert second.wait(20)
    assert second.view.status == "done"


def test_a_model_that_cannot_be_loaded_fails_the_run_alone(start):
    def make(settings, say):
        raise WeightsError("The model x/y is not in the local hub cache.")

    run = start(make).submit(QUICK)
    assert run.wait(20)
    assert (run.view.status, run.view.reason) == ("failed", "The model x/y is not in the local hub cache.")


@pytest.mark.parametrize("fail_at", [None, 3])
def test_a_run_that_ended_lets_go_of_its_trainer(start, fail_at):
    alive = []

    def make(settings, say):
        trainer = FakeTrainer(settings, fail_at=fail_at)
        alive.append(weakref.ref(trainer))
        return Prepared(trainer, decode)

    manager = start(make)
    run = manager.submit(QUICK)
    assert run.wait(20)
    until(lambda: manager.current() is None)
    gc.collect()
    assert alive[0]() is None


def test_what_cannot_be_run_is_refused_at_once(start, tmp_path):
    manager = start()
    with pytest.raises(SettingsError, match="prompt is empty"):
        manager.submit(Settings(prompt=" "))
    with pytest.raises(SettingsError, match="half of a character"):
        manager.submit(QUICK.override({"prompting.negative_prompt": "\ud83e ugly"}))
    with pytest.raises(DreamerError, match="is not the name of a run"):
        manager.get("../../etc/passwd")
    with pytest.raises(DreamerError, match=r"There is no run 20260101-000000-abcdef\."):
        manager.pause("20260101-000000-abcdef")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty"):
        manager.submit(QUICK, folder=tmp_path / "taken")
    with pytest.raises(RunFolderError, match="is a file"):
        manager.submit(QUICK, folder=tmp_path / "taken" / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        manager.submit(QUICK, folder=tmp_path / "taken" / "file" / "run")
    assert manager.runs() == ()


def test_an_ended_run_can_be_stopped_again_but_not_changed(start):
    manager = start()
    run = manager.submit(QUICK)
    assert run.wait(20)
    manager.stop(run.id)
    assert run.view.status == "done"
    for act in (manager.pause, manager.resume, lambda run_id: manager.change(run_id, 0, {"gamma": 0.5})):
        with pytest.raises(DreamerError, match="has ended"):
            act(run.id)


def test_runs_are_found_again_by_the_next_manager(start, tmp_path):
    manager = start()
    done = manager.submit(QUICK)
    assert done.wait(20)
    going = manager.submit(LONG)
    manager.change(going.id, 1, {"gamma": 0.9})
    until(lambda: going.view.iteration > 450)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "run.json").write_text("{}")

    second = start()
    assert [view.id for view in second.runs()] == [done.id], "what another program trains is not this one's to list"
    with pytest.raises(DreamerError, match="no run"):
        second.get(going.id)
    going.folder.release()  # as the end of its program does
    views = {view.id: view for view in second.runs()}
    assert list(views) == [going.id, done.id]
    assert [view.id for view in second.cut_off()] == [going.id] and views[going.id].resumable
    assert (views[done.id].status, views[done.id].iteration, views[done.id].settings) == ("done", 20, QUICK)
    assert (views[going.id].status, views[going.id].reason) == ("failed", "The program ended before the run did.")
    assert views[going.id].settings.variants[1].gamma == 0.9
    found = second.get(going.id).view
    assert 100 < len(found.history.iterations) <= 400
    assert second.get(done.id).view.history == done.view.history
    assert second.get(done.id).wait(0)
    assert going.view.status == "running"


def test_close_stops_everything_and_keeps_the_scenes(start):
    manager = start()
    runs = [manager.submit(LONG) for _ in range(3)]
    until(lambda: runs[0].view.iteration > 2)
    assert manager.close(20)
    assert [run.view.status for run in runs] == ["stopped"] * 3
    assert runs[0].view.reason == "Stopped because the program was closed."
    assert len(list(runs[0].folder.scenes.glob("*.ply"))) == 2
    with pytest.raises(DreamerError, match="closing"):
        manager.submit(QUICK)


def test_many_starts_and_stops_leave_no_thread_behind(start):
    manager = start(pace=Pace(snapshot_seconds=10))
    first = manager.submit(QUICK)
    assert first.wait(20)
    threads = threading.active_count()
    for cycle in range(30):
        run = manager.submit(LONG)
        if cycle % 3:
            until(lambda run=run: run.view.iteration > 0)
        manager.stop(run.id)
        assert run.wait(20)
        assert run.view.status == "stopped"
    assert threading.active_count() == threads
    until(lambda: manager.current() is None)
    assert sum(view.snapshot is not None for view in manager.runs()) <= 5


def test_the_model_can_be_warmed_before_the_first_run(start):
    make = fake_make_trainer()
    manager = start(make, warm=QUICK)
    until(lambda: make.made and make.made[0].iteration == 1)
    run = manager.submit(QUICK)
    assert run.wait(20)
    assert len(make.made) == 2
    assert len(manager.runs()) == 1


def test_views_read_from_other_threads_are_consistent(start):
    manager = start(fake_make_trainer(0.001), pace=Pace(snapshot_seconds=0.01))
    run = manager.submit(dataclasses.replace(QUICK, iterations=100))
    wrong = []

    def read():
        last = 0
        while not run.view.ended:
            view = run.view
            if view.iteration < last or (view.snapshot and view.snapshot.iteration > view.iteration):
                wrong.append(view)
            last = view.iteration
            time.sleep(1e-4)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert not wrong
    assert run.view.status == "done"


def test_sides_that_share_a_method_are_told_apart():
    from dreamerxl.runs.snapshot import labels

    assert labels([Variant("ism"), Variant("tsm")]) == ("ISM", "TSM")
    assert labels([Variant("tsm", gamma=0.1), Variant("tsm", gamma=0.5)]) == ("TSM gamma 0.1", "TSM gamma 0.5")
    assert labels([Variant("tsm"), Variant("tsm", clip_color=None)]) == ("TSM clip_color 0.05", "TSM clip_color off")
    assert labels([Variant("tsm"), Variant("tsm")]) == ("TSM (1)", "TSM (2)")
