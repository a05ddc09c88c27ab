"""VSD: its question, its model of the particles, its particles in the plane, and a run with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussian_data import drive, stable_diffusion_alphas
from tiny_models import ISM, equal, make_stable_diffusion, make_stable_diffusion_xl, settings, values

from dreamerxl.cameras import cameras_at
from dreamerxl.config import Particles as ParticleSettings
from dreamerxl.config import Timesteps, Variant, Weights
from dreamerxl.diffusion.schedule import Schedule
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.models import load_guidance
from dreamerxl.guidance.particles import Particles, plain_weights
from dreamerxl.lab.modes import ModesSettings, coverage, distil_particles, four_modes
from dreamerxl.training import checkpoint
from dreamerxl.training.trainer import Trainer

VSD = Variant(method="vsd")


@pytest.fixture(scope="module", params=["sd", "v", "xl"])
def guidance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "xl":
        make_stable_diffusion_xl(folder)
    else:
        make_stable_diffusion(folder, "v_prediction" if request.param == "v" else "epsilon")
    return load_guidance(str(folder), "cpu", Weights(precision="float32"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 4, 16, 16, generator=generator(seed))


CAMERAS = cameras_at(torch.tensor([0.0, 120.0]), 15.0, 4.0, 30.0, 32, 32)


def test_vsd_compares_the_guided_prediction_with_that_of_the_particles() -> None:
    schedule = Schedule(stable_diffusion_alphas())
    x_0, noise = torch.randn(2, 3, 4, 2, 2, generator=generator(), dtype=torch.float64)
    steps = plan_steps(600, VSD, Timesteps(), 0)
    asked = []

    def network(query):
        asked.append((query.t, query.guided, query.particles, query.x))
        return 3 * query.x if query.guided else query.x + 1

    score = drive(METHODS["vsd"](x_0, steps, noise, schedule, VSD), network)
    alpha = stable_diffusion_alphas()[600]
    x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
    assert [entry[:3] for entry in asked] == [(600, True, False), (600, False, True)] and asked[0][3] is asked[1][3]
    assert torch.allclose(score.gradient, ((1 - alpha) / alpha).sqrt() * (2 * x_t - 1), atol=1e-12)


def test_particles_recover_the_modes_where_sds_collapses() -> None:
    """A target of four modes with weights 0.4, 0.3, 0.2, 0.1; every particle starts in the middle."""
    target = four_modes()
    weights = target.weights
    found = {
        method: coverage(target, distil_particles(target, ModesSettings(method=method, iterations=1000)))
        for method in ("sds", "vsd")
    }
    drawn = coverage(target, target.sample(4000, generator(5)))
    assert drawn.spread == pytest.approx(2**0.5, rel=0.03), "what the measure says of the target itself"
    assert min(found["sds"].shares) == 0 and found["sds"].spread > 2 * drawn.spread
    off = (torch.tensor(found["vsd"].shares) - weights).abs().sum() / 2  # total variation
    chance = (torch.tensor(found["sds"].shares) - weights).abs().sum() / 2
    assert off < 0.08 < 0.25 < chance
    assert 0.8 * drawn.spread < found["vsd"].spread < 1.3 * drawn.spread


def test_the_model_of_the_particles_starts_as_the_model_itself(guidance: Guidance) -> None:
    particles = Particles(guidance, ParticleSettings(), generator())
    prompts, x = guidance.embed(["a red duck", "a blue bear"]), latents(4)
    twice = prompts.rows([0, 1, 0, 1])
    for t in (3, 700):
        expected = guidance.predict(x, torch.full((4,), t), twice)
        assert torch.allclose(particles.predict(x, t, prompts, CAMERAS), expected, atol=1e-5)


def test_it_shares_the_base_weights_and_trains_the_rest_alone(guidance: Guidance) -> None:
    particles = Particles(guidance, ParticleSettings(learning_rate=1e-2), generator())
    prompts, x = guidance.embed(["a red duck", "a blue bear"]), latents(2)
    before, times = {k: v.clone() for k, v in guidance.unet.state_dict().items()}, torch.full((2,), 500)
    own = guidance.predict(x, times, prompts)
    places = {weight.data_ptr() for weight in guidance.unet.parameters()}
    shared = [weight for name, weight in particles.unet.named_parameters() if name not in particles.weights]
    assert {weight.data_ptr() for weight in shared} == places
    names = set(particles.weights)
    assert names and all("lora_" in name or name.startswith("class_embedding") for name in names)
    losses = [particles.learn(x, prompts, CAMERAS, generator(7)) for _ in range(40)]  # one t and noise, again and again
    assert losses[-1] < 0.95 * losses[0]
    after = guidance.unet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(guidance.predict(x, times, prompts), own)
    assert not any(weight.requires_grad for weight in guidance.unet.parameters())


def test_what_is_learned_is_a_low_rank_change_and_a_shift_by_camera(guidance: Guidance) -> None:
    """The same UNet with W + B A in place of W, and the camera's embedding added to the timestep's, says the same."""
    rank = 2
    particles = Particles(guidance, ParticleSettings(rank=rank, learning_rate=1e-2), generator())
    prompts, x = guidance.embed(["a red duck", "a blue bear"]), latents(2)
    for step in range(5):
        particles.learn(x, prompts, CAMERAS, generator(step))
    merged = copy.deepcopy(guidance.unet)
    weights, changed = particles.weights, 0
    for name in [name for name in weights if ".lora_A." in name]:
        a, b = weights[name], weights[name.replace("lora_A", "lora_B")]
        assert a.shape[0] == b.shape[1] == rank
        merged.get_submodule(name.partition(".lora_A")[0]).weight.data += b.detach() @ a.detach()
        changed += 1
    assert changed == sum(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name, _ in merged.named_modules())
    poses = torch.linalg.inv(CAMERAS.viewmats).flatten(1)
    inner = particles.unet.class_embedding.inner
    shift = inner.linear_2(torch.nn.functional.silu(inner.linear_1(poses))).detach()
    assert shift.abs().max() > 1e-3 and not torch.allclose(shift[0], shift[1], atol=1e-4)
    merged.time_embedding.register_forward_hook(lambda module, given, emb: emb + shift)
    expected = replace(guidance, unet=merged).predict(x, torch.full((2,), 400), prompts)
    assert torch.allclose(particles.predict(x, 400, prompts, CAMERAS), expected, atol=1e-4)


def test_a_large_unet_learns_the_same_with_less_memory(guidance: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, x = guidance.embed(["a red duck", "a blue bear"]), latents(2)
    plain = Particles(guidance, ParticleSettings(), generator())
    monkeypatch.setattr("dreamerxl.guidance.particles.WORTH_COMPILING", 0)
    frugal = Particles(guidance, ParticleSettings(), generator())
    assert frugal.unet.is_gradient_checkpointing and not plain.unet.is_gradient_checkpointing
    for step in range(2):
        plain.learn(x, prompts, CAMERAS, generator(step)), frugal.learn(x, prompts, CAMERAS, generator(step))
    assert all(torch.equal(weight, frugal.weights[name]) for name, weight in plain.weights.items())


def test_a_fused_unet_has_its_plain_weights_still(guidance: Guidance) -> None:
    fused = copy.deepcopy(guidance.unet)
    fused.fuse_qkv_projections()
    for name, part in list(fused.named_modules()):
        if name.endswith(("attn1", "attn2")):
            for gone in ("to_k", "to_v") if part.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(part, gone)
    found, expected = plain_weights(fused), guidance.unet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    return load_guidance(str(make_stable_diffusion(tmp_path_factory.mktemp("small"))), "cpu", Weights(precision="float32"))


def test_the_sides_by_vsd_are_particles_of_their_own(small: Guidance) -> None:
    trainer = Trainer(settings((VSD, ISM, VSD), **{"particles__learning_rate": 1e-2}), small)
    first, ism, second = values(trainer)
    assert not torch.equal(first["means"], second["means"]) and torch.equal(first["means"], ism["means"])
    report = trainer.step()
    assert all(side.grad_norm > 0 for side in report.sides)
    taught = trainer.particles.tensors()
    assert sum(value.abs().sum() for name, value in taught.items() if "lora_B" in name and name.startswith("weights")) > 0


def test_neighbours_of_vsd_go_the_way_they_would_alone(small: Guidance) -> None:
    beside, alone = (Trainer(settings(sides), small) for sides in ((ISM, VSD), (ISM,)))
    found, expected = beside.step().sides[0].gradient, alone.step().sides[0].gradient
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_resumed_run_goes_on_bit_for_bit(small: Guidance, tmp_path: Path) -> None:
    wanted = settings((VSD, VSD), **{"particles__learning_rate": 1e-2})
    straight, first = Trainer(wanted, small), Trainer(wanted, small)
    for _ in range(4):
        straight.step()
    for _ in range(2):
        first.step()
    checkpoint.save(tmp_path / "2.safetensors", first.state_dict())
    resumed = Trainer(wanted, small)
    resumed.load_state_dict(checkpoint.load(tmp_path / "2.safetensors"))
    for _ in range(2):
        resumed.step()
    assert equal(values(resumed), values(straight))
    a, b = straight.particles.tensors(), resumed.particles.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
