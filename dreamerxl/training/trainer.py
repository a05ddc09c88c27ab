"""One lockstep iteration of all sides of a run.

    draw       views, background, t, noise, colour or depth: one draw for every side
    render     each side's Gaussians -> images [B, 3, H, W]: the colour, or the disparity repeated to three channels
    encode     images of all sides in one VAE call -> x_0 [B, C, h, w] a side
    predict    the sides' methods advance together; each round of queries is one network call -> latent gradients
    backward   latent gradient -> (VAE) -> image gradient -> clip per pixel -> (rasterizer) -> Gaussians
    update     Adam, colours projected into 0..1, densification

The image gradient is that of losses.distillation / B * sum(x_0 * gradient), the gradient taken as a constant. A depth
iteration carries it on to what the rasterizer gave, the expected depth and the alpha. The depth is clipped by Eq. 9;
the alpha, a picture in 0..1 like a colour channel, by the colour's rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dreamerxl.config import Optimization, Settings, Variant
from dreamerxl.distillation import METHODS
from dreamerxl.distillation.clipping import clip_color, clip_depth
from dreamerxl.distillation.score import Score
from dreamerxl.distillation.timesteps import Steps, plan_steps
from dreamerxl.errors import NumericalError, RunFolderError, SettingsError
from dreamerxl.gaussians.depth import normalized_disparity
from dreamerxl.gaussians.ply import Points
from dreamerxl.gaussians.rasterize import Render, rasterize
from dreamerxl.gaussians.scene import Splats, activate
from dreamerxl.guidance.adapter import Guidance
from dreamerxl.guidance.denoiser import Denoiser, advance_together
from dreamerxl.guidance.particles import Particles
from dreamerxl.guidance.prompts import embed_prompt
from dreamerxl.training.checkpoint import State
from dreamerxl.training.draw import Draw, draw, generator_for
from dreamerxl.training.losses import regularization
from dreamerxl.training.readout import Clock, Key, Readout
from dreamerxl.training.report import SideReport, StepReport
from dreamerxl.training.side import make_side, restore_side, side_tensors, update
from dreamerxl.training.stages import stage_of

PARTICLES = 2**33  # stands for the iteration in the seeds of VSD's own draws, beyond every other


@dataclass(frozen=True, eq=False)
class View:
    """What one side shows in an iteration, part of the autograd graph."""

    splats: Splats
    render: Render
    disparity: Tensor  # [B, H, W]
    image: Tensor  # [B, 3, H, W], what the model is shown


@dataclass(frozen=True, eq=False)
class Clipped:
    """The gradient of the guided picture before and after clipping: [B, 3, H, W] colour or [B, 1, H, W] depth."""

    before: Tensor
    after: Tensor


class Trainer:
    """All sides of a run and the iteration they stand at. No threads: whoever calls ``step`` owns everything in here."""

    def __init__(self, settings: Settings, guidance: Guidance, max_rows: int | None = None, cloud: Points | None = None) -> None:
        """max_rows limits the rows of one network call, where memory is short; cloud: points made from a text, to start from."""
        self.settings, self.guidance, self.max_rows = settings, guidance, max_rows
        self.iteration = 0
        self.embeddings = embed_prompt(guidance, settings.prompt, settings.prompting)
        places = particle_places(settings.variants)
        self.sides = [
            make_side(settings, variant, guidance.device, cloud, places.get(index, 0))
            for index, variant in enumerate(settings.variants)
        ]
        self._particles: Particles | None = None

    def replace_variant(self, index: int, variant: Variant) -> None:
        """Change one side's method or settings from the next step on; its Gaussians stay."""
        if not 0 <= index < len(self.sides):
            raise SettingsError(f"variants.{index} does not exist; this run has {len(self.sides)} side(s), counted from 0.")
        variants = list(self.settings.variants)
        variants[index] = self.sides[index].variant = variant
        self.settings = replace(self.settings, variants=tuple(variants))

    def step(self) -> StepReport:
        """One iteration of every side. Raises NumericalError naming side and stage where something is not finite.

        Nothing is asked of the device before everything up to the gradients is under way; the Gaussians change only
        once all of it is known to be finite.
        """
        clock, readout = Clock(self.guidance.device), Readout()
        drawn = self._draw()
        views = [self._show(side, drawn) for side in range(len(self.sides))]
        watch(readout, "render", [view.image for view in views])
        clock.stop("render")
        pixels = torch.cat([view.image.detach() for view in views]).requires_grad_()
        latents = self.guidance.encode(pixels)
        watch(readout, "latents of the render", latents.chunk(len(views)))
        clock.stop("encode")
        denoiser = self._denoiser(drawn)
        plans = [plan_steps(drawn.t, side.variant, self.settings.timesteps, self.iteration) for side in self.sides]
        scores = self._distill(latents.detach(), plans, drawn, denoiser)
        watch(readout, "noise prediction", [score.gradient for score in scores])
        clock.stop("predict")
        weight = self.settings.losses.distillation / self.settings.views.batch
        (gradient,) = torch.autograd.grad(latents, pixels, torch.cat([weight * score.gradient for score in scores]))
        gradients = gradient.chunk(len(views))
        watch(readout, "image gradient", gradients)
        clips = [self._backward(i, views[i], gradients[i], drawn.depth) for i in range(len(views))]
        watch(readout, "clipped gradient", [clip.after for clip in clips])
        for index, (score, clip) in enumerate(zip(scores, clips, strict=True)):
            note_norms(readout, index, score, clip)
        numbers = self._read(readout)
        clock.stop("backward")
        self._teach_particles(latents.detach(), drawn)
        self._update(views)
        clock.stop("update")
        sides = tuple(self._report(i, views[i], scores[i], plans[i], clips[i], numbers) for i in range(len(views)))
        report = StepReport(self.iteration, drawn, sides, denoiser.evaluations, denoiser.calls, clock.milliseconds())
        self.iteration += 1
        return report

    def slow_down(self, factor: float) -> None:
        """Every learning rate times ``factor`` from the next step on."""
        self.settings = slower(self.settings, factor)

    def state_dict(self) -> State:
        """Everything that the next steps depend on. Same settings, seed and state: the same steps, bit for bit on a CPU."""
        tensors = {f"{i}.{name}": value for i, side in enumerate(self.sides) for name, value in side_tensors(side).items()}
        if self._particles is not None:
            tensors |= {f"particles.{name}": value for name, value in self._particles.tensors().items()}
        return State(tensors, {"iteration": self.iteration, "settings": self.settings.to_dict()})

    def load_state_dict(self, state: State) -> None:
        """Take up a state of ``state_dict``, live changes of the variants included. Raises RunFolderError if it does not fit."""
        settings = Settings.from_dict(state.values["settings"])
        if len(settings.variants) != len(self.sides):
            raise RunFolderError(f"The checkpoint has {len(settings.variants)} side(s) and the run {len(self.sides)}.")
        for index, (side, variant) in enumerate(zip(self.sides, settings.variants, strict=True)):
            own = {name[len(f"{index}.") :]: value for name, value in state.tensors.items() if name.startswith(f"{index}.")}
            restore_side(side, own, self.settings.optimization, self.guidance.device)
            side.variant = variant
        self.settings = replace(self.settings, variants=settings.variants)
        learned = {
            name.removeprefix("particles."): value for name, value in state.tensors.items() if name.startswith("particles.")
        }
        self._particles = None  # what it has learned since is not of this state
        if learned:
            self.particles.restore(learned)
        self.iteration = int(state.values["iteration"])

    @property
    def particles(self) -> Particles:
        """VSD's model of its particles, made when it is first asked for."""
        if self._particles is None:
            generator = generator_for(self.settings.seed, PARTICLES)
            self._particles = Particles(self.guidance, self.settings.particles, generator)
        return self._particles

    def _draw(self) -> Draw:
        size = self.guidance.latent_size
        shape = (self.guidance.latent_channels, size, size)
        return draw(self.settings, self.iteration, len(self.guidance.schedule), shape, self.guidance.device)

    def _show(self, index: int, drawn: Draw) -> View:
        cameras, splats = drawn.cameras, activate(self.sides[index].params)
        render = rasterize(splats, cameras.viewmats, cameras.Ks, cameras.width, cameras.height, drawn.background)
        disparity = normalized_disparity(render.depth, render.alpha)
        image = disparity[:, None].expand(-1, 3, -1, -1) if drawn.depth else render.rgb.movedim(-1, 1)
        return View(splats, render, disparity, image)

    def _denoiser(self, drawn: Draw) -> Denoiser:
        prompts, cameras = self.embeddings, drawn.cameras
        views = prompts.conditioning(cameras.azimuth_deg, cameras.elevation_deg, drawn.depth)
        return Denoiser(
            self.guidance,
            views=views,
            negative=prompts.negative,
            inversion=None if prompts.inversion_is_negative else prompts.inversion,
            guidance_scales=[side.variant.guidance_scale for side in self.sides],
            max_rows=self.max_rows,
            away=prompts.away(cameras.azimuth_deg, cameras.elevation_deg, drawn.depth),
            particles=lambda x, t: self.particles.predict(x, t, views, cameras),
        )

    @torch.no_grad()
    def _distill(self, latents: Tensor, plans: Sequence[Steps], drawn: Draw, denoiser: Denoiser) -> list[Score]:
        schedule = self.guidance.schedule
        noises = [drawn.noise] * len(self.sides)
        for index, place in particle_places(self.settings.variants).items():
            if place:  # particles under one noise would be one particle
                generator = generator_for(self.settings.seed, PARTICLES * (1 + place) + self.iteration)
                noises[index] = torch.randn(drawn.noise.shape, generator=generator).to(drawn.noise)
        methods = [
            METHODS[side.variant.method](x_0, plan, noise, schedule, side.variant)
            for side, x_0, plan, noise in zip(self.sides, latents.chunk(len(self.sides)), plans, noises, strict=True)
        ]
        return advance_together(methods, denoiser.answer)

    def _teach_particles(self, latents: Tensor, drawn: Draw) -> None:
        """Train VSD's model on the renders of its particles, if there are any."""
        renders = latents.chunk(len(self.sides))
        indices = list(particle_places(self.settings.variants))
        if indices:
            cameras = drawn.cameras
            views = self.embeddings.conditioning(cameras.azimuth_deg, cameras.elevation_deg, drawn.depth)
            generator = generator_for(self.settings.seed, PARTICLES + 1 + self.iteration)
            self.particles.learn(torch.cat([renders[index] for index in indices]), views, cameras, generator)
            readout = Readout()
            norm = torch.nn.utils.get_total_norm(self.particles.weights.values())
            readout.watch(indices[0], "model of the particles", norm)
            self._read(readout)

    def _backward(self, index: int, view: View, gradient: Tensor, depth: bool) -> Clipped:
        """Clip the image gradient [B, 3, H, W] and carry it, with the regularisers', to the Gaussians."""
        side = self.sides[index]
        clip, render = side.variant, view.render
        if depth:
            parts = torch.autograd.grad(view.disparity, (render.depth, render.alpha), gradient.sum(1), retain_graph=True)
            before, alpha = (part[:, None] for part in parts)  # [B, 1, H, W]
            after = before
            if clip.clip_depth is not None:
                scale = view.splats.scales.detach().mean()
                after = clip_depth(before, clip.clip_depth, scale, clip.depth_clip_rule)
            alpha = alpha if clip.clip_color is None else clip_color(alpha, clip.clip_color)
            roots, grads = [render.depth, render.alpha], [after[:, 0], alpha[:, 0]]
        else:
            before = gradient
            after = gradient if clip.clip_color is None else clip_color(gradient, clip.clip_color)
            roots, grads = [render.rgb], [after.movedim(1, -1)]
        penalty = regularization(self.settings.losses, render, view.disparity, view.splats.scales)
        if penalty is not None:
            roots, grads = [*roots, penalty], [*grads, torch.ones_like(penalty)]
        if side.densifier is not None:
            side.densifier.before_backward(side.params, side.optimizers, self.iteration, render.info)
        torch.autograd.backward(roots, grads)
        return Clipped(before, after)

    def _update(self, views: Sequence[View]) -> None:
        readout = Readout()
        held = stage_of(self.settings.losses, self.iteration).held
        for index, side in enumerate(self.sides):
            update(side, self.settings.optimization, self.iteration / max(self.settings.iterations - 1, 1), held)
            for name, param in side.params.items():
                readout.watch(index, f"{name} after the update", param)
        self._read(readout)
        for index, side in enumerate(self.sides):
            if side.densifier is not None:
                side.densifier.after_step(side.params, side.optimizers, self.iteration, views[index].render.info)
                if len(side.params["means"]) == 0:
                    raise NumericalError(
                        f"{self._name(index)} has no Gaussians left after pruning at iteration {self.iteration}; "
                        "a lower densification.prune_opacity or fewer opacity resets keep them."
                    )

    @torch.no_grad()
    def _report(
        self, index: int, view: View, score: Score, plan: Steps, clip: Clipped, numbers: Mapping[Key, float]
    ) -> SideReport:
        side, render = self.sides[index], view.render
        x0_hat = self.guidance.schedule.predict_x0(score.x_t[:1], score.eps_t[:1], plan.t)
        return SideReport(
            variant=side.variant,
            render=render.rgb[:1].detach().clone(),
            depth=render.depth[:1].detach().clone(),
            disparity=view.disparity[:1].detach().clone(),
            x0_hat=x0_hat,
            gradient=clip.before[:1].clone(),
            clipped=clip.after[:1].clone(),
            grad_norm=numbers[index, "grad_norm"],
            clipped_norm=numbers[index, "clipped_norm"],
            clipped_share=numbers[index, "clipped_share"],
            latent_norm=numbers[index, "latent_norm"],
            count=len(side.params["means"]),
            t=plan.t,
            s=plan.s,
            mu=plan.mu,
        )

    def _read(self, readout: Readout) -> Mapping[Key, float]:
        """The noted numbers, if all that was watched is finite: one infinity or NaN would soon be in every Gaussian."""
        numbers, broken = readout.read()
        for index, stage in broken[:1]:
            raise NumericalError(
                f"{self._name(index)}: the {stage} is not finite at iteration {self.iteration}; "
                "lower learning rates or a lower clipping threshold may help."
            )
        return numbers

    def _name(self, index: int) -> str:
        return f"Side {index + 1} ({self.sides[index].variant.method.upper()})"


def particle_places(variants: Sequence[Variant]) -> dict[int, int]:
    """The sides that are VSD's particles, by index, counted from 0."""
    indices = [index for index, variant in enumerate(variants) if variant.method == "vsd"]
    return {index: place for place, index in enumerate(indices)}


def slower(settings: Settings, factor: float) -> Settings:
    """The same settings with every learning rate times ``factor``."""
    rates = {field.name: getattr(settings.optimization, field.name) for field in fields(Optimization)}
    return settings.override({f"optimization.{name}": factor * rate for name, rate in rates.items() if name.startswith("lr_")})


def watch(readout: Readout, stage: str, tensors: Sequence[Tensor]) -> None:
    """tensors: one a side."""
    for index, tensor in enumerate(tensors):
        readout.watch(index, stage, tensor)


def note_norms(readout: Readout, index: int, score: Score, clip: Clipped) -> None:
    """What a report says of one side's gradients."""
    readout.note(index, "grad_norm", clip.before.norm())
    readout.note(index, "clipped_norm", clip.after.norm())
    readout.note(index, "clipped_share", (clip.before != clip.after).any(1).float().mean())
    readout.note(index, "latent_norm", score.gradient.norm())
