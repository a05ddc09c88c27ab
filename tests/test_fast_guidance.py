"""The fast forms of the UNet and the VAE's encoder, against diffusers' own modules, torch's functions and autograd.

On a CPU the plain twins of the kernels run; with a card the kernels themselves do, and are compared with their twins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tiny_models import ISM, TSM, settings
from torch import Tensor

from dreamerxl.config import Weights
from dreamerxl.guidance import attention
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.attention import wide_attention, wide_attention_backward
from dreamerxl.guidance.encoder import FrozenEncoder, is_supported
from dreamerxl.guidance.fast_unet import Compiled, accelerate
from dreamerxl.guidance.graphs import Recording, StaticBatches
from dreamerxl.guidance.group_norm import add_shifted, group_norm, group_norm_backward
from dreamerxl.guidance.models import load_guidance
from dreamerxl.training.trainer import Trainer

EXACT = Weights(precision="float32")
CARD = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["cpu", CARD])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scores", [2**20, 300])  # one block of rows, several
def test_wide_attention_is_attention(scores: int, batch: int, device: str) -> None:
    q, k, v, d_out = (noise(batch, 37, 24, seed=i).to(device) * 2 for i in range(4))
    wanted = [part.double().requires_grad_() for part in (q, k, v)]
    heads = [part[:, None] for part in wanted]
    expected = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])[:, 0]
    out = wide_attention(q, k, v, scores)
    assert torch.allclose(out, expected.float(), atol=2e-5)
    gradients = wide_attention_backward(d_out, q, k, v, out, scores)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, wanted, d_out.double()), strict=True):
        assert torch.allclose(ours, theirs.float(), atol=2e-4)


def test_wide_attention_holds_one_block_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    softmax = attention._softmax
    monkeypatch.setattr(attention, "_softmax", lambda scores, *rest: largest.append(scores.numel()) or softmax(scores, *rest))
    q = noise(2, 64, 8)
    wide_attention(q, q, q, scores=2 * 64 * 10)
    assert max(largest) == 2 * 64 * 10 and sum(largest) == 2 * 64 * 64


@pytest.mark.parametrize("device", ["cpu", CARD])
@pytest.mark.parametrize(("batch", "channels", "height", "width", "groups"), [(1, 64, 9, 7, 32), (3, 40, 20, 30, 8)])
@pytest.mark.parametrize("shifted", ["no", "by channel", "by sample"])
@pytest.mark.parametrize("silu", [True, False])
def test_group_norm_with_what_is_around_it(
    batch: int, channels: int, height: int, width: int, groups: int, shifted: str, silu: bool, device: str
) -> None:
    x, dy, add = (last(noise(batch, channels, height, width, seed=i)).to(device) for i in range(3))
    x = x * 3 + 50  # a mean far from 0 must not cost the variance its digits
    weight, bias = noise(channels, seed=4).to(device), noise(channels, seed=5).to(device)
    shift = {"no": None, "by channel": noise(channels, seed=6), "by sample": noise(batch, channels, seed=6)}[shifted]
    shift = None if shift is None else shift.to(device)
    source = x.double().requires_grad_()
    moved = source if shift is None else source + shift.double().expand(batch, -1)[..., None, None]
    expected = F.group_norm(moved, groups, weight.double(), bias.double(), 1e-5)
    expected = F.silu(expected) if silu else expected
    y, affine = group_norm(x, weight, bias, groups, 1e-5, silu, shift)
    assert torch.allclose(y, expected.float(), atol=5e-5) and y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(expected, source, dy.double())
    dx = group_norm_backward(dy, x, affine, weight, bias, groups, silu, add)
    assert torch.allclose(dx, (gradient + add).float(), atol=5e-5)
    assert torch.allclose(add_shifted(dy, add, bias), dy + add + bias[:, None, None], atol=1e-6)


def vae(attends: bool = True) -> Any:
    """An untrained VAE with every kind of layer that SDXL's has."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = AutoencoderKL(
            block_out_channels=(16, 32, 32),  # type: ignore[arg-type]
            down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
            layers_per_block=2,
            norm_num_groups=8,
            mid_block_add_attention=attends,
        ).requires_grad_(False)
        for part in made.parameters():  # norms at 1 and biases at 0 would hide where they are forgotten
            part += 0.1 * torch.randn_like(part)
        return made.eval()


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("at_once", [None, 3, 2, 1])
def test_frozen_encoder_is_the_encoder(at_once: int | None, attends: bool) -> None:
    whole = vae(attends)
    images = (noise(3, 3, 32, 48) / 4).requires_grad_()
    expected, d_mean = whole.encode(images).latent_dist.mean, noise(3, 4, 8, 12, seed=3)
    (gradient,) = torch.autograd.grad(expected, images, d_mean)
    mean = FrozenEncoder(whole)(images, at_once)
    assert torch.allclose(mean, expected, atol=2e-5)
    assert torch.allclose(torch.autograd.grad(mean, images, d_mean)[0], gradient, atol=2e-4 * float(gradient.abs().max()))


def test_views_encoded_in_turns_hold_no_activations() -> None:
    encoder, images = FrozenEncoder(vae()), noise(4, 3, 32, 32).requires_grad_()
    assert encoder(images).grad_fn.kept is not None  # type: ignore[union-attr]
    assert encoder(images, 2).grad_fn.kept is None  # type: ignore[union-attr]


def test_an_encoder_of_another_kind_is_left_to_diffusers() -> None:
    other = vae()
    assert is_supported(other)
    other.encoder.conv_act = torch.nn.GELU()
    assert not is_supported(other)


@pytest.mark.parametrize("kind", ["sd", "sd-v", "sdxl"])
def test_an_accelerated_unet_predicts_the_same(kind: str, model_folders: dict[str, Path]) -> None:
    guidance = load_guidance(str(model_folders[kind]), "cpu", EXACT)
    x, t, rows = noise(3, 4, 16, 16), torch.tensor([5, 400, 990]), guidance.embed(["a red duck", "", "a chair"])
    expected = guidance.predict(x, t, rows)
    accelerate(guidance.unet)
    assert torch.allclose(guidance.predict(x, t, rows), expected, atol=1e-5)


def test_a_compiler_that_fails_leaves_the_blocks_as_they_are(model_folders: dict[str, Path]) -> None:
    guidance = load_guidance(str(model_folders["sdxl"]), "cpu", EXACT)
    x, t, rows = noise(2, 4, 16, 16), torch.tensor([5, 400]), guidance.embed(["a red duck", ""])
    expected = guidance.predict(x, t, rows)

    def broken(*_: Any) -> Any:
        raise RuntimeError("there is no C compiler")

    guidance.__dict__["_network"] = Compiled(guidance.unet, guidance._evaluate, backend=broken)
    with pytest.warns(UserWarning, match="uncompiled.*"):
        assert torch.equal(guidance.predict(x, t, rows), expected)
    assert torch.equal(guidance.predict(x, t, rows), expected)


class Eager:
    """Records like a CUDA graph does: inputs of fixed size, an output that the next call overwrites."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, function: Any, inputs: tuple[Tensor, ...]) -> Recording:
        held = tuple(part.clone() for part in inputs)
        output = function(*held)
        self.sizes.append(len(output))

        def replay(inputs: tuple[Tensor, ...]) -> Tensor:
            for to, part in zip(held, inputs, strict=True):
                assert to.shape == part.shape
                to.copy_(part)
            return output.copy_(function(*held))

        return replay


def test_static_batches_give_the_rows_that_were_asked_for() -> None:
    def function(x: Tensor, t: Tensor) -> Tensor:
        return x * t[:, None] + x.square().sum(1, keepdim=True)

    record = Eager()
    batches = StaticBatches(function, record, most=3)

    def ask(*counts: int) -> list[int]:
        """Row counts that were recorded anew."""
        before = len(record.sizes)
        for rows in counts:
            x, t = noise(rows, 6, seed=rows), torch.arange(rows)
            assert torch.equal(batches(x, t), function(x, t))
        return record.sizes[before:]

    assert ask(4, 12, 8, 4, 12) == [4, 12, 8]
    assert ask(7, 10, 11) == []  # filled up
    assert ask(9, 5) == [9, 5]  # 12 is more than a quarter above 9
    assert sorted(batches.recordings) == [5, 9, 12]  # those not used for longest made way


@pytest.mark.parametrize("at_once", [None, 1])
def test_the_fast_forms_take_the_same_step(at_once: int | None, model_folders: dict[str, Path]) -> None:
    """A whole iteration with the forms that a card uses against one with the plain modules."""

    def gradients(guidance: Guidance) -> list[Tensor]:
        return [side.gradient for side in Trainer(settings((ISM, TSM)), guidance).step().sides]

    plain, fast = (load_guidance(str(model_folders["sdxl"]), "cpu", EXACT) for _ in range(2))
    accelerate(fast.unet)
    fast.encode_at_once = at_once
    fast.__dict__ |= {"_encoder": FrozenEncoder(fast.vae), "_network": StaticBatches(fast._evaluate, Eager(), most=1)}
    for ours, expected in zip(gradients(fast), gradients(plain), strict=True):
        assert torch.allclose(ours, expected, atol=1e-4 * float(expected.abs().max()))
