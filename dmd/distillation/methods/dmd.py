"""DMD (Yin et al. 2023, algorithm 1): distribution matching, with regression on teacher pairs if there are any.

Two parts come from DMD2 (Yin et al. 2024): several critic turns per generator turn (section 4.2), and a warm start by
regression (as for its one-step SDXL), which lets distribution matching start with every mode of the teacher.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.process import shift_indices
from dmd.distillation.clipping import clip
from dmd.distillation.divergence.signs import SPREAD, image_spread
from dmd.distillation.inputs.batches import TrainingImages, draw_pairs
from dmd.distillation.lora import frozen_copy
from dmd.distillation.losses import (
    denoising_loss,
    distribution_matching_loss,
    normaliser,
    project_out,
    regression_loss,
    score_difference,
)
from dmd.distillation.methods.base import Method, Setting
from dmd.distillation.monitors import constant, gradient_by_time, image_statistics
from dmd.distillation.networks import Networks
from dmd.distillation.perceptual import Lpips
from dmd.distillation.phases import Phase, Turn, Values
from dmd.features.frozen import FrozenNetwork
from dmd.samplers.ddim import ode_times, trajectory
from dmd.samplers.few_step import generate
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from dmd.training.ema import interpolate, update_ema
from dmd.training.random_source import RandomSource

MAX_TRAJECTORY_STEPS = 10  # largest number of teacher passes for the regression target of a later generator step

Losses = dict[str, Tensor]
Predictor = Callable[[Tensor, Tensor, Cond], Tensor]  # (x_t, t, cond) -> x0


class Score(NamedTuple):
    """Generated images x [B, C, H, W] without gradient, x_t at t [B], and what both networks predict for x0."""

    x: Tensor
    x_t: Tensor
    t: Tensor
    cond: Cond
    real: Tensor  # by the teacher
    fake: Tensor  # by the critic, or by its average


Reweight = Callable[[Tensor, Networks, Score], Tensor]  # (score difference, networks, its terms) -> score difference


class DMD(Method):
    """The generator follows the score difference; the critic learns the generator's distribution."""

    def __init__(
        self,
        cfg: MethodConfig,
        timesteps: int,
        pairs: Pairs,
        data: TrainingImages,
        default_timestep: int | None = None,
        frozen: Mapping[str, FrozenNetwork] | None = None,
    ) -> None:
        super().__init__(cfg, timesteps, pairs, data, default_timestep, frozen)
        self.kept: dict[tuple[int, range], tuple[Tensor, Cond]] = {}  # images of one step, by step and samples
        kind = cfg.regression_loss
        self.distance = Lpips(cfg.lpips) if kind == "lpips" else partial(regression_loss, kind=kind)

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """LPIPS and clipping need images; without images, pairs are the only thing to validate against."""
        problems = []
        if cfg.regression_loss == "lpips" and not setting.on_pixels:
            problems.append(
                "method.regression_loss: lpips needs images, but this teacher works on latents; use l2 or huber"
            )
        if cfg.clip and not setting.on_pixels:
            problems.append("method.clip: clipping needs images, but this teacher works on latents; set it to false")
        if cfg.condition_dropout and not setting.has_null:
            problems.append("method.condition_dropout: the teacher has no null condition; set it to 0")
        if cfg.later_inputs == "data" and not setting.has_images:
            problems.append("method.later_inputs: data needs images, but the data are prompts; set it to simulation")
        if not setting.has_images and not setting.pairs:
            problems.append("pairs.count: a run on prompts alone is validated against pairs; set it above 0")
        return problems

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add the critic's average, if it predicts in the critic's place."""
        is_averaged = self.has_critic and self.cfg.critic_average > 0
        return replace(nets, critic_average=frozen_copy(nets.critic)) if is_averaged else nets

    def steady(self, turn: str, nets: Networks, values: Values) -> None:
        """Stabilise the critic after a turn.

        After a critic turn, its average moves: average <- d average + (1 - d) critic, with d = method.critic_average
        (Flash-DMD, Chen et al. 2025). After a generator turn, it moves towards the generator: critic <- l critic +
        (1 - l) generator, with l = method.critic_interpolation (IDA of SenseFlow, Ge et al. 2025).
        """
        if turn == "critic" and nets.critic_average is not None:
            update_ema(nets.critic_average, nets.critic, self.cfg.critic_average)
        if turn == "generator" and self.cfg.critic_interpolation < 1:
            interpolate(nets.critic, nets.generator, self.cfg.critic_interpolation)

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator, then of the critic, then distribution matching."""
        k = self.cfg.critic_turns
        critic = Turn("critic", 1, cfg.batch_size, cfg.lr_critic)
        generator = Turn("generator", k, cfg.generator_batch_size, cfg.lr_generator)
        phases = (
            *self.warm_start(cfg),
            Phase(
                name="catch_up",
                steps=cfg.warm_start.critic_turns,
                turns=(critic,),
                loss=self.loss,
                lr_schedule="constant",
                after=self.steady,
                reads_images=self.turns_with_images(),
            ),
            Phase(
                name="distill",
                steps=cfg.generator_turns * k,
                turns=(generator, critic) if self.cfg.reuse_images else (critic, generator),
                loss=self.loss,
                lr_schedule=cfg.lr_schedule,
                after=self.steady,
                reads_images=self.turns_with_images(),
                reads_pairs=self.turns_with_pairs(),
            ),
        )
        return tuple(phase for phase in phases if phase.steps)

    def warm_start(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """A phase in which the generator learns by regression on pairs; none if it has no turns."""
        phase = Phase(
            name="warm_start",
            steps=(warm := cfg.warm_start).turns,
            turns=(Turn("generator", 1, warm.batch_size, warm.lr),),
            loss=self.warm_start_loss,
            lr_schedule="cosine",
            is_preparation=True,
            reads_pairs=("generator",),
        )
        return (phase,) if warm.turns else ()

    def turns_with_images(self) -> tuple[str, ...]:
        """Turns that draw training images: those whose generator starts from noised ones."""
        return ("critic", "generator") if self.cfg.later_inputs == "data" else ()

    def turns_with_pairs(self) -> tuple[str, ...]:
        """Turns that draw teacher pairs after the warm start: the generator's, if regression goes on."""
        return ("generator",) if self.cfg.regression_weight > 0 else ()

    def loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The loss of a turn on the images that the generator makes from z."""
        loss = self.critic_loss if network == "critic" else self.generator_loss
        return loss(nets, *self.draw_images(network, nets, z, cond, rng), rng)

    def warm_start_loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """Regression alone: noise and conditions come from the pairs, not from z and cond."""
        loss = self.regression(nets, rng)
        return {"total": loss, "regression": loss.detach()}

    def draw_images(
        self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource
    ) -> tuple[Tensor, Cond]:
        """The generated images of a turn and their conditions.

        With `reuse_images`, a critic turn takes those of the generator turn of the same step, as DMD2's own code does.
        """
        place = (rng.turn[1], rng.samples)
        if network == "critic" and place in self.kept:
            return self.kept.pop(place)
        if cond is not None and self.starts_from_data(rng):
            cond = self.data.draw(rng, z)[1]
        x = self.generate(network, nets, z, cond, rng)
        if network == "generator" and self.cfg.reuse_images:
            self.kept = {k: v for k, v in self.kept.items() if k[0] == place[0]} | {place: (x.detach(), cond)}
        return x, cond

    def generate(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Tensor:
        """x = G(z) [B, C, H, W], with gradient in the generator's own turn.

        A generator of several steps is trained by backward simulation (DMD2, section 4.5): its own trajectory, stopped
        at a step that is drawn once for the whole batch and is equal in all processes. With `later_inputs: data`, the
        input of a later step is noised data in place of that trajectory, and cond are their labels.
        """
        last = self.last_step(rng)
        with torch.set_grad_enabled(network == "generator"):
            if self.starts_from_data(rng):
                t = torch.full((len(z),), self.generator_times[last], device=z.device)
                data, noise = self.data.draw(rng, z)[0], z if z.ndim == 4 else z[:, last]
                x = nets.generator(nets.generator.process.add_noise(data, noise, t), t, cond)
            else:
                x = generate(nets.generator, z, self.generator_times[: last + 1], cond, self.cfg.levels.between)
            return clip(x) if self.cfg.clip else x

    def starts_from_data(self, rng: RandomSource) -> bool:
        """Whether the generator's input in a turn is noised data: at later steps, if the parameters say so."""
        return self.cfg.later_inputs == "data" and self.last_step(rng) > 0

    def last_step(self, rng: RandomSource) -> int:
        """The step at which the trajectory of the batch stops; each call in a turn returns the same one."""
        return rng.fork("last step").common_integer(len(self.generator_times)) if self.cfg.steps > 1 else 0

    def critic_loss(
        self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, denoise: Predictor | None = None
    ) -> Losses:
        """Denoising loss on generated images x at t in [0, T), with the loss weight of the teacher's own training.

        denoise: a call with the critic's weights in place of the critic's own.
        """
        t = shift_indices(rng.integers(0, self.timesteps), self.cfg.t_shift, self.timesteps)
        cond = self.drop_conditions(cond, rng)
        x_t = nets.critic.process.add_noise(x, rng.noise_like(x), t)
        loss = denoising_loss((denoise or nets.critic)(x_t, t, cond), x, nets.critic.loss_weight(t))
        return {"total": loss, "denoising": loss.detach()}

    def drop_conditions(self, cond: Cond, rng: RandomSource) -> Cond:
        """The conditions [B], of which a random share is the null condition. Other draws do not depend on it."""
        if cond is None or self.null is None or not self.cfg.condition_dropout:
            return cond
        is_dropped = rng.fork("condition_dropout").uniform() < self.cfg.condition_dropout
        return torch.where(is_dropped, torch.full_like(cond, self.null), cond)

    def generator_loss(
        self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, reweight: Reweight | None = None
    ) -> Losses:
        """Distribution matching at t in [t_min T, t_max T]; gradients reach the generator through x alone.

        reweight changes the score difference sample by sample.
        """
        grad, score, numbers = self.direction(nets, x, cond, rng)
        if reweight is not None:
            grad = reweight(grad, nets, score)
        loss = distribution_matching_loss(x, grad)
        losses = {"total": loss, "dm": loss.detach()} | numbers
        if self.cfg.regression_weight > 0:
            regression = self.regression(nets, rng)
            losses |= {"total": loss + self.cfg.regression_weight * regression, "regression": regression.detach()}
        clamped = (normaliser(score.x, score.real) < self.cfg.normaliser_min).double().mean()
        data_statistics = {name: constant(value, x.device) for name, value in self.data_statistics.items()}
        monitors = image_statistics(x) | data_statistics | gradient_by_time(grad, score.t, self.timesteps)
        return losses | {"clamped": clamped, SPREAD: image_spread(x)} | monitors

    def direction(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> tuple[Tensor, Score, Losses]:
        """The gradient on x [B, C, H, W], the score that it comes from, and further numbers for the log."""
        score = self.score(nets, nets.teacher, x, cond, rng)
        return self.matching(score), score, {}

    def matching(self, score: Score) -> Tensor:
        """The normalised score difference [B, C, H, W], without the critic's error if it is projected out."""
        grad = score_difference(score.x, score.real, score.fake, self.cfg.normaliser_min)
        return project_out(grad, score.fake - score.x) if self.cfg.projection else grad

    @torch.no_grad()
    def score(self, nets: Networks, teacher: Denoiser, x: Tensor, cond: Cond, rng: RandomSource) -> Score:
        """Noise x at t in [t_min T, t_max T], and predict x0 by a teacher and by the critic or its average."""
        low, high = self.score_range()
        t = shift_indices(rng.integers(low, high + 1), self.cfg.t_shift, self.timesteps).clamp(low, high)
        x_t = teacher.process.add_noise(x, rng.noise_like(x), t)
        real = teacher(x_t, t, cond)
        fake = nets.scorer(x_t, t, cond)
        return Score(x.detach(), x_t, t, cond, real, fake)

    def score_range(self) -> tuple[int, int]:
        """The lowest and the highest t of the score difference."""
        return int(self.cfg.t_min * self.timesteps), min(int(self.cfg.t_max * self.timesteps), self.timesteps - 1)

    def regression(self, nets: Networks, rng: RandomSource) -> Tensor:
        """Distance between the generator's and the teacher's images for the same noise (DMD eq. 9); a scalar.

        A generator of several steps trains one step per batch. A later step starts from a noised image of the teacher,
        and its target is the end of the teacher's own trajectory from there. All steps share their weights, so the
        network would forget the later steps if only the first were trained.
        """
        batch = draw_pairs(self.pairs, rng)
        k = rng.common_integer(len(self.generator_times)) if self.cfg.steps > 1 else 0
        if k == 0:
            x = generate(nets.generator, batch.z, self.generator_times[:1], batch.labels)
            return self.distance(x, batch.x)
        index = self.generator_times[k]
        t = torch.full((len(batch.x),), index, device=batch.x.device)
        x_t = nets.generator.process.add_noise(batch.x, rng.noise_like(batch.x), t)
        x = nets.generator(x_t, t, batch.labels)
        with torch.no_grad():
            times = ode_times(index + 1, min(MAX_TRAJECTORY_STEPS, index + 1))
            target = trajectory(nets.teacher, x_t, times, batch.labels)
        return self.distance(x, target)
