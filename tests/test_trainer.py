"""The lockstep iteration: what sides share, where gradients go and are clipped, and what is reported."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ISM, RENDERED, SDS, TSM, equal, settings, values
from torch import Tensor

from dreamerxl.config import Optimization, Settings, Variant
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.clipping import clip_color, clip_depth
from dreamerxl.distillation.timesteps import plan_steps
from dreamerxl.errors import NumericalError, SettingsError
from dreamerxl.gaussians.depth import normalized_disparity
from dreamerxl.gaussians.rasterize import Render, rasterize
from dreamerxl.gaussians.scene import activate
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.denoiser import Denoiser, advance_together
from dreamerxl.guidance.models import load_guidance
from dreamerxl.training import trainer as module
from dreamerxl.training.draw import draw
from dreamerxl.training.losses import regularization, total_variation
from dreamerxl.training.side import decayed, learning_rates
from dreamerxl.training.trainer import Trainer

PLAIN: dict[str, Any] = {"losses.tv_color": 0, "losses.tv_depth": 0, "losses.scale": 0, "densification.enabled": False}


def close(given: Tensor, expected: Tensor, share: float) -> bool:
    """Whether no element is off by more than a share of the largest."""
    return bool((given - expected).abs().max() <= share * expected.abs().max())


def roughen(trainer: Trainer) -> None:
    """Gaussians of different shapes: round ones have no rotation gradient but rounding."""
    generator = torch.Generator().manual_seed(4)
    for side in trainer.sides:
        for name in ("scales", "quats"):
            param = side.params[name]
            param.data += 0.3 * torch.randn(param.shape, generator=generator)


def gradients_of(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Tensor]]]:
    """Keeps each side's parameter gradients at the moment of the update; nothing is updated."""
    kept: list[dict[str, Tensor]] = []

    def keep(side: Any, *rest: object) -> None:
        kept.append({name: param.grad.clone() for name, param in side.params.items() if param.grad is not None})

    monkeypatch.setattr(module, "update", keep)
    return lambda: kept


def test_every_side_sees_the_same_draw(guidance: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[tuple[Tensor, Tensor, Tensor]] = []
    noises: list[tuple[int, Tensor]] = []

    def spy_rasterize(splats: Any, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor) -> Render:
        rendered.append((viewmats, Ks, background))
        return rasterize(splats, viewmats, Ks, width, height, background)

    def spy_on(method: Any) -> Any:
        def spy(x_0: Tensor, steps: Any, noise: Tensor, *rest: Any) -> Any:
            noises.append((steps.t, noise))
            return method(x_0, steps, noise, *rest)

        return spy

    monkeypatch.setattr(module, "rasterize", spy_rasterize)
    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, spy_on(method))
    trainer = Trainer(settings((ISM, TSM, SDS)), guidance)
    reports = [trainer.step() for _ in range(3)]
    for i in range(3):
        views, draws = rendered[3 * i : 3 * i + 3], noises[3 * i : 3 * i + 3]
        assert all(torch.equal(a, b) for view in views[1:] for a, b in zip(views[0], view, strict=True))
        assert all(t == draws[0][0] and torch.equal(noise, draws[0][1]) for t, noise in draws[1:])
        assert reports[i].draw.t == draws[0][0] and torch.equal(reports[i].draw.noise, draws[0][1])
    assert not torch.equal(rendered[0][0], rendered[3][0]) and not torch.equal(noises[0][1], noises[3][1])


def test_every_side_starts_from_the_same_gaussians(guidance: Guidance) -> None:
    first, second = values(Trainer(settings(), guidance))
    assert equal([first], [second])


def test_draws_depend_on_seed_and_iteration_alone(guidance: Guidance) -> None:
    def drawn(config: Settings, iteration: int) -> Any:
        return draw(config, iteration, 1000, (4, 16, 16), torch.device("cpu"))

    a, b = drawn(settings(), 7), drawn(settings((TSM,), losses__distillation=3), 7)
    assert torch.equal(a.cameras.viewmats, b.cameras.viewmats) and torch.equal(a.noise, b.noise) and a.t == b.t
    for other in (drawn(settings(), 8), drawn(settings(seed=1), 7)):
        assert not torch.equal(a.noise, other.noise) and not torch.equal(a.cameras.viewmats, other.cameras.viewmats)
    share = sum(drawn(settings(losses__depth_ratio=0.25), i).depth for i in range(400)) / 400
    assert 0.18 < share < 0.32
    assert not any(drawn(settings(), i).depth for i in range(40))


def test_same_settings_and_seed_give_the_same_bits(guidance: Guidance) -> None:
    config = settings(losses__depth_ratio=0.5, densification__enabled=True, densification__start=0, densification__every=2)
    runs = []
    for _ in range(2):
        torch.rand(3)  # the global generator must not matter
        trainer = Trainer(config, guidance)
        for _ in range(5):
            trainer.step()
        runs.append(values(trainer))
    assert equal(*runs)
    other = Trainer(settings(seed=5), guidance)
    other.step()
    assert not equal(runs[0], values(other))


def test_a_round_is_one_call_with_each_rows_own_timestep(guidance: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    predict = guidance.predict

    def spy(latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
        assert len(latents) == len(timesteps) == len(conditioning)
        calls.append(timesteps.tolist())
        return predict(latents, timesteps, conditioning)

    monkeypatch.setattr(guidance, "predict", spy)
    trainer = Trainer(settings((dataclasses.replace(ISM, delta_t=50), dataclasses.replace(TSM, delta_t=90))), guidance)
    report = trainer.step()
    t, (ism, tsm) = report.draw.t, report.sides
    assert (ism.s, tsm.s) == (max(t - 50, 0), max(t - 90, 0)) and ism.mu == ism.s and tsm.s < tsm.mu < t
    plans = [plan_steps(t, side.variant, trainer.settings.timesteps, 0) for side in report.sides]
    assert len(calls) == report.calls == max(len(plan.inversion) for plan in plans) + 1
    assert sum(map(len, calls)) == report.evaluations
    if len(plans[0].inversion) == len(plans[1].inversion):
        assert sorted(calls[-1]) == sorted([t] * 8 + [tsm.mu] * 2) and set(calls[-2]) == {ism.s, tsm.s}


@pytest.mark.parametrize("index", [0, 1])
def test_a_side_of_a_pair_is_the_run_alone(index: int, guidance: Guidance) -> None:
    """Only the batch of the convolutions differs, and with it the order of their sums: a few units of float32 rounding.

    Compared before the update, where Adam would turn the rounding of a vanishing gradient into a whole step.
    """
    pair, alone = Trainer(settings(), guidance), Trainer(settings(((ISM, TSM)[index],)), guidance)
    ours, theirs = pair.step().sides[index], alone.step().sides[0]
    assert torch.equal(ours.render, theirs.render) and (ours.t, ours.s, ours.mu) == (theirs.t, theirs.s, theirs.mu)
    assert close(ours.x0_hat, theirs.x0_hat, 1e-4) and close(ours.gradient, theirs.gradient, 1e-4)
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def surrogate(trainer: Trainer, index: int, depth: bool) -> tuple[Tensor, Any]:
    """The loss whose gradient an iteration should take, written out for one side; and its render."""
    config, guidance, side = trainer.settings, trainer.guidance, trainer.sides[index]
    drawn = trainer._draw()
    cameras, splats = drawn.cameras, activate(side.params)
    render = rasterize(splats, cameras.viewmats, cameras.Ks, RENDERED, RENDERED, drawn.background)
    disparity = normalized_disparity(render.depth, render.alpha)
    image = torch.stack([disparity] * 3, 1) if depth else render.rgb.permute(0, 3, 1, 2)
    latents = guidance.encode(image)
    views = trainer.embeddings.conditioning(cameras.azimuth_deg, cameras.elevation_deg, depth)
    denoiser = Denoiser(guidance, views, trainer.embeddings.negative, None, [side.variant.guidance_scale])
    steps = plan_steps(drawn.t, side.variant, config.timesteps, trainer.iteration)
    method = METHODS[side.variant.method](latents.detach(), steps, drawn.noise, guidance.schedule, side.variant)
    (score,) = advance_together([method], denoiser.answer)
    loss = config.losses.distillation / config.views.batch * (latents * score.gradient).sum()
    penalty = regularization(config.losses, render, disparity, splats.scales)
    return loss if penalty is None else loss + penalty, render


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("regularised", [False, True])
def test_gradients_are_those_of_the_surrogate_loss(
    batch: int, depth: bool, regularised: bool, guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = tuple(dataclasses.replace(variant, clip_color=None, clip_depth=None) for variant in (ISM, TSM))
    weights = {f"losses__{name}": float(regularised) * 30 for name in ("tv_color", "tv_depth", "scale")}
    trainer = Trainer(settings(variants, views__batch=batch, losses__depth_ratio=float(depth), **weights), guidance)
    roughen(trainer)
    kept = gradients_of(trainer, monkeypatch)
    report = trainer.step()
    assert report.draw.depth is depth
    trainer.iteration = 0
    for index, side in enumerate(trainer.sides):
        loss, _ = surrogate(trainer, index, depth)
        expected = torch.autograd.grad(loss, list(side.params.values()), allow_unused=True)
        for name, gradient in zip(side.params, expected, strict=True):
            given = kept()[index].get(name)
            if gradient is None:
                assert given is None or not given.any(), name
            else:
                assert given is not None and close(given, gradient, 1e-4), name


def test_colour_is_clipped_in_the_image(guidance: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    threshold = 0.003
    trainer = Trainer(settings((dataclasses.replace(ISM, clip_color=threshold),), views__batch=1, **dotted(PLAIN)), guidance)
    roughen(trainer)
    kept = gradients_of(trainer, monkeypatch)
    (side,) = trainer.step().sides
    assert torch.equal(side.clipped, clip_color(side.gradient, threshold))
    assert 0 < side.clipped_share <= 1 and side.clipped_norm < side.grad_norm
    assert side.clipped.abs().max() <= threshold * (1 + 1e-5)
    trainer.iteration = 0
    _, render = surrogate(trainer, 0, depth=False)
    params = trainer.sides[0].params
    expected = torch.autograd.grad((render.rgb * side.clipped.permute(0, 2, 3, 1)).sum(), list(params.values()))
    for name, gradient in zip(params, expected, strict=True):
        assert close(kept()[0][name], gradient, 1e-5), name


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_depth_is_clipped_by_the_gaussians_scale(rule: Any, guidance: Guidance) -> None:
    variant = dataclasses.replace(ISM, clip_depth=0.5, depth_clip_rule=rule)
    trainer = Trainer(settings((variant,), views__batch=1, losses__depth_ratio=1, **dotted(PLAIN)), guidance)
    scale = trainer.sides[0].params["scales"].detach().exp().mean().item()
    (side,) = trainer.step().sides
    assert side.gradient.shape == side.clipped.shape == (1, 1, RENDERED, RENDERED) and side.gradient.any()
    assert torch.allclose(side.clipped, clip_depth(side.gradient, 0.5, scale, rule), rtol=1e-5, atol=0)


def dotted(changes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "__"): value for name, value in changes.items()}


def test_depth_guidance_moves_geometry_and_leaves_colour(guidance: Guidance) -> None:
    trainer = Trainer(settings((TSM,), losses__depth_ratio=1, **dotted(PLAIN)), guidance)
    (before,) = values(trainer)
    for _ in range(2):
        assert trainer.step().draw.depth
    (after,) = values(trainer)
    assert torch.equal(before["sh0"], after["sh0"])
    assert all(not torch.equal(before[name], after[name]) for name in ("means", "scales", "opacities", "quats"))


def test_colours_stay_in_range(guidance: Guidance) -> None:
    trainer = Trainer(settings((TSM,), optimization__lr_sh0=1, optimization__lr_sh0_final=1, **dotted(PLAIN)), guidance)
    for _ in range(3):
        trainer.step()
    rgb = activate(trainer.sides[0].params).colors
    assert rgb.min() >= -1e-6 and rgb.max() <= 1 + 1e-6 and bool(((rgb < 1e-6) | (rgb > 1 - 1e-6)).any())


def test_annealing_reaches_the_methods(guidance: Guidance) -> None:
    variant = dataclasses.replace(ISM, delta_t_start=200, delta_t=20)
    released = {"timesteps__rule": "released", "timesteps__t_min": 300, "timesteps__t_max": 301, "timesteps__t_max_start": 990}
    trainer = Trainer(settings((variant,), timesteps__anneal_iterations=10, **released), guidance)
    spans, highest = [], []
    for iteration in (0, 5, 10, 30):
        trainer.iteration = iteration
        (side,) = trainer.step().sides
        spans.append(side.t - side.s)
        highest.append(side.t)
    assert spans == [200, 110, 20, 20]
    assert all(300 <= t <= 990 for t in highest) and highest[-1] in (300, 301)


def test_learning_rates_decay_exponentially() -> None:
    rates = Optimization(lr_means=1e-2, lr_means_final=1e-4, lr_sh0=0.5, lr_sh0_final=0.5)
    assert learning_rates(rates, 0)["means"] == pytest.approx(1e-2)
    assert learning_rates(rates, 0.5)["means"] == pytest.approx(1e-3)
    assert learning_rates(rates, 1)["means"] == pytest.approx(1e-4)
    assert learning_rates(rates, 0.7)["sh0"] == pytest.approx(0.5) and learning_rates(rates, 0.7)["quats"] == rates.lr_quats
    assert decayed(0.2, 0.0, 0.75) == pytest.approx(0.05) and decayed(0.0, 0.0, 0.3) == 0


def test_learning_rates_reach_the_optimisers(guidance: Guidance) -> None:
    trainer = Trainer(settings((ISM,), iterations=11, optimization__lr_means=1e-2, optimization__lr_means_final=1e-4), guidance)
    rates = []
    for iteration in (0, 5, 10):
        trainer.iteration = iteration
        trainer.step()
        rates.append(trainer.sides[0].optimizers["means"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4])


def test_a_replaced_variant_takes_effect_at_the_next_step(guidance: Guidance) -> None:
    trainer, steady = Trainer(settings(), guidance), Trainer(settings(), guidance)
    assert equal_steps(trainer, steady) == [True, True]
    trainer.replace_variant(1, dataclasses.replace(TSM, gamma=1.0, guidance_scale=30))
    assert trainer.settings.variants == (ISM, trainer.sides[1].variant)
    assert equal_steps(trainer, steady) == [True, False]
    trainer.replace_variant(0, SDS)
    report = trainer.step()
    assert report.sides[0].variant.method == "sds" and report.sides[1].mu == report.draw.t
    with pytest.raises(SettingsError, match=r"variants\.2 does not exist"):
        trainer.replace_variant(2, SDS)


def equal_steps(a: Trainer, b: Trainer) -> list[bool]:
    pairs = zip(a.step().sides, b.step().sides, strict=True)
    return [torch.equal(x.gradient, y.gradient) for x, y in pairs]


@pytest.mark.parametrize("kind", ["sd-v", "sdxl"])
def test_other_models_train_through_the_same_path(kind: str, model_folders: dict[str, Path]) -> None:
    other = load_guidance(str(model_folders[kind]), "cpu")
    trainer = Trainer(settings(prompting__negative_prompt="ugly", losses__depth_ratio=0.5), other)
    before = values(trainer)
    for _ in range(2):
        report = trainer.step()
    assert not equal(before, values(trainer)) and report.sides[0].x0_hat.shape == (1, 4, 16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
@pytest.mark.parametrize("kind", ["sd", "sd-v", "sdxl"])
def test_a_card_trains_what_the_processor_trains(kind: str, model_folders: dict[str, Path]) -> None:
    config = settings(losses__depth_ratio=0.5, densification__enabled=True, densification__start=0, densification__every=2)
    card = Trainer(config, load_guidance(str(model_folders[kind]), "cuda"))
    processor = Trainer(config, load_guidance(str(model_folders[kind]), "cpu"))
    ours, theirs = card.step().sides[1], processor.step().sides[1]
    assert (ours.t, ours.s, ours.mu) == (theirs.t, theirs.s, theirs.mu)
    assert torch.allclose(ours.render.cpu(), theirs.render, atol=1e-4)
    for _ in range(5):
        card.step()
    state = card.state_dict()
    card.load_state_dict(state)
    card.step()
    assert all(encoder.device.type == "cpu" for encoder in card.guidance.text_encoders)


@pytest.mark.parametrize("count", [1, 4])
def test_one_to_four_sides(count: int, guidance: Guidance) -> None:
    variants = (ISM, TSM, SDS, Variant(method="csd"))[:count]
    report = Trainer(settings(variants), guidance).step()
    assert [side.variant for side in report.sides] == list(variants)


def test_reports_hold_no_graph(guidance: Guidance) -> None:
    trainer = Trainer(settings(losses__depth_ratio=0.5), guidance)
    for _ in range(4):
        report = trainer.step()
        for side in report.sides:
            tensors = [value for value in vars(side).values() if isinstance(value, Tensor)]
            assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in tensors)
            assert all(len(tensor) == 1 for tensor in tensors) and side.render.shape == (1, RENDERED, RENDERED, 3)
            channels = 1 if report.draw.depth else 3
            assert side.gradient.shape == side.clipped.shape == (1, channels, RENDERED, RENDERED)
            assert side.disparity.min() >= 0 and side.disparity.max() <= 1
    assert set(report.timing_ms) == {"render", "encode", "predict", "backward", "update"}
    assert trainer.guidance.decode(report.sides[0].x0_hat).shape == (1, 3, 32, 32)


def nan_like(tensor: Tensor) -> Tensor:
    broken = tensor.clone()
    broken[0, 0, 0, 3] = torch.nan
    return broken


class NanGradient(torch.autograd.Function):
    """Passes values on and turns their gradient into NaN."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.nan


def test_what_is_not_finite_is_named(guidance: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(stage: str, trainer: Trainer) -> None:
        with pytest.raises(NumericalError, match=rf"Side \d \((ISM|TSM)\): the {stage} is not finite at iteration 0"):
            trainer.step()

    encode, predict = guidance.encode, guidance.predict
    trainer = Trainer(settings(), guidance)
    trainer.sides[1].params["sh0"].data.fill_(torch.nan)
    with pytest.raises(NumericalError, match=r"Side 2 \(TSM\): the render is not finite"):
        trainer.step()
    with monkeypatch.context() as patch:
        patch.setattr(guidance, "encode", lambda images: nan_like(encode(images)))
        fails("latents of the render", Trainer(settings(), guidance))
    with monkeypatch.context() as patch:
        patch.setattr(guidance, "predict", lambda *given: nan_like(predict(*given)))
        fails("noise prediction", Trainer(settings(), guidance))
    with monkeypatch.context() as patch:
        patch.setattr(guidance, "encode", lambda images: encode(NanGradient.apply(images)))
        fails("image gradient", Trainer(settings(), guidance))
    with monkeypatch.context() as patch:
        patch.setattr(module, "update", lambda side, *rest: side.params["scales"].data.fill_(torch.inf))
        fails("scales after the update", Trainer(settings(), guidance))


class InfinitePixel(torch.autograd.Function):
    """Passes values on and makes one number of the second image's gradient infinite."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        broken = gradients[0].clone()
        broken[1, 2, 17, 9] = torch.inf
        return broken


@pytest.mark.parametrize("threshold", [None, 0.05])
@pytest.mark.parametrize("depth", [0, 1])
def test_one_infinite_pixel_reaches_no_gaussian(
    threshold: float | None, depth: int, guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = tuple(dataclasses.replace(variant, clip_color=threshold, clip_depth=threshold) for variant in (ISM, TSM))
    trainer, encode = Trainer(settings(variants, losses__depth_ratio=depth), guidance), guidance.encode
    before = values(trainer)
    monkeypatch.setattr(guidance, "encode", lambda images: encode(InfinitePixel.apply(images)))
    with pytest.raises(NumericalError, match=r"Side 1 \(ISM\): the image gradient is not finite at iteration 0"):
        trainer.step()
    assert equal(before, values(trainer))


def test_a_scene_pruned_to_nothing_is_an_error(guidance: Guidance) -> None:
    pruning = {"enabled": True, "start": 0, "every": 1, "prune_opacity": 1, "grad_threshold": 1e6}
    trainer = Trainer(settings(**{f"densification__{name}": value for name, value in pruning.items()}), guidance)
    with pytest.raises(NumericalError, match=r"Side 1 \(ISM\) has no Gaussians left"):
        for _ in range(4):
            trainer.step()


def test_total_variation_against_loops() -> None:
    images = torch.rand(3, 5, 7, 2, generator=torch.Generator().manual_seed(0))
    down, across = [], []
    for i, j in itertools.product(range(5), range(7)):
        down += [(images[:, i + 1, j] - images[:, i, j]) ** 2] if i < 4 else []
        across += [(images[:, i, j + 1] - images[:, i, j]) ** 2] if j < 6 else []
    expected = torch.stack(down).mean() + torch.stack(across).mean()
    assert total_variation(images).item() == pytest.approx(expected.item(), rel=1e-5)
    assert total_variation(torch.full((1, 4, 6), 0.3)).item() == 0
