"""The schedule's parametrisations against diffusers, and the schedules that it accepts."""

import diffusers
import pytest
import torch

from dreamerxl.diffusion.schedule import Schedule, from_diffusers
from dreamerxl.errors import WeightsError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ROWS = torch.tensor([0, 401, 998])


def latents(batch, seed=0, dtype=torch.float32):
    return torch.randn(2, batch, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs(schedule, x_0, noise, t):
    """What a perfect network would say, written from the definitions."""
    alpha = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * x_0
    return {"epsilon": noise, "v_prediction": v, "sample": x_0}[schedule.prediction_type]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_table_is_the_schedulers_own(scheduler, prediction_type):
    made = getattr(diffusers, scheduler)(**BETAS, prediction_type=prediction_type)
    for source in (made, dict(made.config)):
        schedule = from_diffusers(source)
        assert torch.equal(schedule.alphas_cumprod, made.alphas_cumprod)
        assert (schedule.prediction_type, len(schedule)) == (prediction_type, 1000)


def test_table_of_stable_diffusion_starts_at_the_known_value():
    assert from_diffusers(BETAS).alphas_cumprod[0].item() == pytest.approx(0.99915, abs=1e-7)


def test_zero_terminal_snr_stays_finite():
    schedule = from_diffusers({**BETAS, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    noise, x_0 = latents(1)
    x_t = schedule.add_noise(x_0, noise, 999)
    assert schedule.alphas_cumprod[-1] > 0
    assert schedule.predict_x0(x_t, noise, 999).isfinite().all()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            "FlowMatchEulerDiscreteScheduler has no beta schedule",
        ),
        ({**BETAS, "_class_name": "X", "prediction_type": "flow_prediction"}, "'flow_prediction'; accepted: epsilon"),
        ({**BETAS, "beta_schedule": "stairs"}, "cannot be built: stairs"),
        ({**BETAS, "beta_start": -0.1}, "cannot be built"),
        ({"beta_start": -0.1, "beta_end": 0.1}, "outside 0..1"),
        ({**BETAS, "num_train_timesteps": "many"}, "cannot be built"),
    ],
)
def test_other_schedules_are_refused_with_a_sentence(config, words):
    with pytest.raises(WeightsError, match=words):
        from_diffusers(config)


@pytest.mark.parametrize("t", [0, 20, 500, 999])
@pytest.mark.parametrize("batch", [1, 3])
def test_noise_and_velocity_match_diffusers(t, batch):
    scheduler = diffusers.DDIMScheduler(**BETAS, prediction_type="v_prediction")
    schedule = from_diffusers(scheduler)
    x_0, noise = latents(batch)
    steps = torch.full((batch,), t)
    x_t = schedule.add_noise(x_0, noise, t)
    assert torch.allclose(x_t, scheduler.add_noise(x_0, noise, steps), atol=1e-6)
    velocity = scheduler.get_velocity(x_0, noise, steps)
    assert torch.allclose(schedule.to_eps(velocity, x_t, t), noise, atol=2e-6)
    assert torch.allclose(schedule.to_x0(velocity, x_t, t), x_0, atol=2e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_output_gives_back_noise_and_x0(prediction_type):
    schedule = Schedule(from_diffusers(BETAS).alphas_cumprod.double(), prediction_type)
    x_0, noise = latents(3, dtype=torch.float64)
    for t in (*ROWS.tolist(), ROWS):
        x_t = schedule.add_noise(x_0, noise, t)
        output = outputs(schedule, x_0, noise, t)
        assert torch.allclose(schedule.to_eps(output, x_t, t), noise, rtol=0, atol=1e-11)
        assert torch.allclose(schedule.to_x0(output, x_t, t), x_0, rtol=0, atol=1e-11)
        assert torch.allclose(schedule.predict_x0(x_t, noise, t), x_0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_rows_with_own_timesteps_equal_single_rows(prediction_type):
    schedule = Schedule(from_diffusers(BETAS).alphas_cumprod, prediction_type)
    output, x_t = latents(3, seed=1)
    for convert in (schedule.to_eps, schedule.to_x0, schedule.predict_x0, schedule.add_noise):
        together = convert(output, x_t, ROWS)
        for row, t in enumerate(ROWS.tolist()):
            alone = convert(output[row : row + 1], x_t[row : row + 1], t)
            assert torch.equal(together[row : row + 1], alone)


def test_timesteps_outside_the_schedule_are_refused():
    schedule = from_diffusers(BETAS)
    for t in (-1, 1000):
        with pytest.raises(IndexError, match=str(t)):
            schedule.alpha(t)
