"""eps_phi of VSD: the diffusion model's own UNet with a LoRA and the camera's pose, trained along on the run's renders.

    scenes     the VSD sides of a run are its particles; one model stands for their distribution
    x_0        [P B, C, h, w], the latents of P particles under the iteration's B cameras
    cameras    [B, 16], camera-to-world matrices, embedded and added to the embedding of the timestep
The LoRA starts as no change at all and the camera's embedding as 0, so at first eps_phi is the model's own prediction.
The base weights are the guidance's tensors themselves, not a copy: only the LoRA, its moments and, while it learns, the
activations come on top. The guidance's own UNet stays as it is, recorded and fused or not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dreamerxl.cameras import Cameras
from dreamerxl.config import Particles as ParticleSettings
from dreamerxl.guidance.adapter import WORTH_COMPILING, Guidance
from dreamerxl.guidance.conditioning import Conditioning, join

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention layers, as diffusers' LoRA training has them
POSE = 16  # numbers of a camera


class Particles:
    """The model of the particles, its optimiser, and the two things asked of it: predict and learn."""

    def __init__(self, guidance: Guidance, settings: ParticleSettings, generator: torch.Generator) -> None:
        self.guidance, self.settings = guidance, settings
        self.unet = with_lora(guidance.unet, settings.rank, generator)
        if sum(weight.numel() for weight in self.unet.parameters()) > WORTH_COMPILING:
            self.unet.enable_gradient_checkpointing()  # where the activations of a whole UNet would fill a card
        self.weights = {name: weight for name, weight in self.unet.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(list(self.weights.values()), lr=settings.learning_rate)

    @torch.no_grad()
    def predict(self, x: Tensor, t: int, prompts: Conditioning, cameras: Cameras) -> Tensor:
        """eps_phi [P B, C, h, w] at latents [P B, C, h, w] and one timestep; prompts B rows."""
        return self._eps(x, t, prompts, cameras)

    def learn(self, x_0: Tensor, prompts: Conditioning, cameras: Cameras, generator: torch.Generator) -> float:
        """Train on the particles' latents for the settings' steps; the mean loss E |eps_phi(x_t, t, y, c) - noise|^2.

        t is uniform on 1..T-1 and new in each step, as is the noise, whatever the distillation drew (Algorithm 1 of
        ProlificDreamer).
        """
        schedule, losses = self.guidance.schedule, []
        for _ in range(self.settings.steps):
            t = int(torch.randint(1, len(schedule), (), generator=generator))
            noise = torch.randn(x_0.shape, generator=generator).to(x_0)
            with torch.enable_grad():
                eps = self._eps(schedule.add_noise(x_0, noise, t), t, prompts, cameras)
                loss = (eps - noise).square().mean()
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs: the trained weights and Adam's state, detached."""
        kept = {f"weights.{name}": weight.detach().clone() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            kept |= {f"adam.{key}.{name}": value.detach().clone() for key, value in self.optimizer.state[weight].items()}
        return kept

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weights.{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"adam.{key}.{name}" in tensors:
                        value = tensors[f"adam.{key}.{name}"].clone()
                        self.optimizer.state[weight][key] = value if key == "step" else value.to(weight)

    def _eps(self, x: Tensor, t: int, prompts: Conditioning, cameras: Cameras) -> Tensor:
        guidance, copies = self.guidance, len(x) // len(cameras)
        rows = join([prompts] * copies)
        poses = torch.linalg.inv(cameras.viewmats).flatten(1).repeat(copies, 1).to(guidance.dtype)
        times = torch.full((len(x),), t, device=x.device)
        added = None if rows.pooled is None else {"text_embeds": rows.pooled, "time_ids": rows.time_ids}
        output = self.unet(
            x.to(guidance.dtype),
            times,
            encoder_hidden_states=rows.hidden,
            class_labels=poses,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        return guidance.schedule.to_eps(output, x, times)


def with_lora(unet: Any, rank: int, generator: torch.Generator) -> Any:
    """A UNet that shares the other's weights and has LoRA layers and a camera's embedding of its own, which do nothing yet."""
    from diffusers.models.embeddings import TimestepEmbedding
    from peft import LoraConfig, inject_adapter_in_model

    with torch.device("meta"):
        twin: Any = type(unet).from_config(unet.config)
    twin.load_state_dict(plain_weights(unet), assign=True)
    twin.requires_grad_(False).eval()
    device, dtype = unet.device, unet.dtype
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), twin)
    twin.class_embedding = TimestepEmbedding(POSE, twin.time_embedding.linear_2.out_features)
    for name, weight in twin.named_parameters():
        if "lora_A" in name or name == "class_embedding.linear_1.weight":  # as peft and PyTorch do, from our generator
            bound = 1 / math.sqrt(weight.shape[1])
            fresh = (2 * torch.rand(weight.shape, generator=generator) - 1) * bound
        elif "lora_B" in name or name.startswith("class_embedding"):
            fresh = torch.zeros(weight.shape)
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        trained = nn.Parameter(fresh.to(device, torch.float32))
        setattr(twin.get_submodule(parent), leaf, trained)
    twin.class_embedding = InSinglePrecision(twin.class_embedding, dtype)
    return twin


class InSinglePrecision(nn.Module):
    """A small network whose weights are float32 among others that are not."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float()).to(self.dtype)


def plain_weights(unet: Any) -> dict[str, Tensor]:
    """A UNet's weights by the names that diffusers gives them, also where q, k and v have been fused (fast_unet.py)."""
    weights: dict[str, Tensor] = {}
    for name, value in unet.state_dict().items():
        for fused, parts in (("to_qkv", ("to_q", "to_k", "to_v")), ("to_kv", ("to_k", "to_v"))):
            if f".{fused}." in name:
                pieces = value.chunk(len(parts))  # views: no memory of their own
                weights |= {name.replace(fused, part): piece for part, piece in zip(parts, pieces, strict=True)}
                break
        else:
            weights[name] = value
    return weights
