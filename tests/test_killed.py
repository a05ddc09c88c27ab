"""A program that is killed while it trains loses at most one interval, and the next one goes on, to the same scenes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from fake_training import fake_make_trainer

from benchmarks.kill import EVERY, kill_again_and_again, settings_for
from dreamerxl.errors import DreamerError
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import load_guidance
from dreamerxl.runs.manager import RunManager
from dreamerxl.training import checkpoint
from dreamerxl.training.trainer import Trainer
from dreamerxl.web.desk import Desk
from dreamerxl.web.shelf import gallery


def test_killed_at_random_moments_it_goes_on_to_the_same_scenes(tmp_path: Path) -> None:
    tally = kill_again_and_again(tmp_path, kills=5, iterations=50, seed=1)
    assert len(tally.readable) >= 3, "most kills came too early to tell anything"
    assert all(tally.readable) and tally.worst <= EVERY and tally.identical


def test_a_run_that_was_cut_off_is_offered_once_and_what_was_half_written_goes(tmp_path: Path) -> None:
    first = RunManager(tmp_path)
    run = first.submit(settings_for(6))
    assert run.wait(60) and first.close()
    record = run.folder.read_record() | {"status": "running", "final_settings": settings_for(9).to_dict()}
    run.folder.write_record(record)  # as the end of its program would have left it
    for name in (".run.0a1b2c3d.json", "checkpoints/.0000004.safetensors-abc.part", "growth/.0000004-0.0a1b2c3d.spz"):
        (run.folder.path / name).write_bytes(b"half")
    with open(run.folder.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"iteration": 7, "sec')

    second = RunManager(tmp_path)
    assert [view.id for view in second.cut_off()] == [run.id]
    assert "The program ended before the run did." in second.get(run.id).view.reason
    again = second.take_up(run.id)
    assert again.wait(60)
    assert (again.view.status, again.view.iteration, again.view.goes_on_from) == ("done", 9, run.id)
    assert second.cut_off() == () and not list(run.folder.path.rglob(".[!l]*"))
    assert [line["iteration"] for line in again.folder.read_metrics()] == list(range(1, 10))
    with pytest.raises(DreamerError, match="was not cut off"):
        second.take_up(again.id)
    assert second.close()


def test_what_was_closed_or_still_waited_is_offered_too(tmp_path: Path) -> None:
    first = RunManager(tmp_path, fake_make_trainer(0.002))
    settings = settings_for(200).override({"checkpoint_every": 10})
    training, waiting, killed = (first.submit(settings.override({"seed": seed})) for seed in range(3))
    while training.view.iteration < 25:
        time.sleep(0.002)
    assert first.close(20)
    killed.folder.write_record(killed.folder.read_record() | {"status": "queued", "reason": ""})  # as a kill leaves it

    second = RunManager(tmp_path, fake_make_trainer())
    offered = {view.id: view for view in second.cut_off()}
    assert list(offered) == [killed.id, waiting.id, training.id]
    assert [offered[run.id].begun for run in (training, waiting, killed)] == [True, False, False]
    assert (offered[training.id].status, offered[training.id].iteration) == ("stopped", training.view.iteration)
    again = [second.take_up(run.id) for run in (training, waiting, killed)]
    assert second.cut_off() == ()
    for seed, run in enumerate(again):
        assert run.wait(20) and run.view.status == "done" and run.view.settings.seed == seed
        assert [line["iteration"] for line in run.folder.read_metrics()] == list(range(1, 201))
    assert second.close(20)

    third = RunManager(tmp_path, fake_make_trainer())
    assert third.cut_off() == ()
    stopped = third.submit(settings)
    third.stop(stopped.id)
    assert stopped.wait(20) and third.close(20)
    assert RunManager(tmp_path, fake_make_trainer()).cut_off() == (), "who stopped a run does not want it"


def test_the_page_offers_it_to_whoever_made_it_and_to_nobody_else(tmp_path: Path) -> None:
    first = RunManager(tmp_path, fake_make_trainer())
    run = first.submit(settings_for(6).override({"prompt": "a <b>ball</b>"}), "ada")
    assert run.wait(60) and first.close()
    run.folder.write_record(run.folder.read_record() | {"status": "paused"})
    desk = Desk(RunManager(tmp_path, fake_make_trainer()))
    assert [view.id for view in desk.cut_off("ada")] == [run.id] and not desk.cut_off("eve") and not desk.cut_off(None)
    page = gallery([], "ada", (), desk.cut_off("ada"))
    assert f'data-do="take-up:{run.id}"' in page and "iteration 6 of 6" in page and "<b>ball" not in page
    with pytest.raises(DreamerError, match="another visitor"):
        desk.take_up(run.id, "eve")
    again = desk.take_up(run.id, "ada")
    assert again.goes_on_from == run.id and again.belongs_to("ada")
    assert desk.manager.get(again.id).wait(60) and not desk.cut_off("ada")
    desk.close()
    assert desk.manager.close()


def test_a_resumed_training_is_the_training_that_never_stopped(guidance: Guidance, tmp_path: Path) -> None:
    """200 iterations with densification in between, to the bit."""
    whole = Trainer(settings_for(200), guidance)
    counts = [whole.step().sides[0].count for _ in range(200)]
    assert len(set(counts[:90])) > 2 and len(set(counts[90:])) > 2, "densification happens before and after"
    _, resumed = interrupted(guidance, tmp_path)
    for _ in range(110):
        resumed.step()
    assert same_state(resumed, whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
def test_a_training_resumed_on_a_card_goes_on_from_the_same_state(tmp_path: Path) -> None:
    """To the bit where it is taken up, and the same pictures for the next iterations. After that sums that a card makes in no
    fixed order tell: two runs that never stopped drift apart as well (docs/reliability.md has by how much)."""
    whole, resumed = interrupted(load_guidance("embedded", "cuda"), tmp_path)
    assert same_state(resumed, whole)
    for _ in range(10):
        one, two = whole.step().sides[0], resumed.step().sides[0]
        assert one.count == two.count and (one.render - two.render).abs().max() < 1e-5


def interrupted(guidance: Guidance, folder: Path) -> tuple[Trainer, Trainer]:
    """A training at iteration 90, and another that took up its checkpoint there."""
    first, resumed = (Trainer(settings_for(200), guidance) for _ in range(2))
    for _ in range(90):
        first.step()
    checkpoint.save(folder / "state.safetensors", first.state_dict())
    resumed.load_state_dict(checkpoint.load(folder / "state.safetensors"))
    return first, resumed


def same_state(a: Trainer, b: Trainer) -> bool:
    ours, theirs = a.state_dict().tensors, b.state_dict().tensors
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
