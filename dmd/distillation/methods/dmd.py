"""DMD (Yin et al. 2023, algorithm 1): distribution matching, with regression on teacher pairs if there are any.

Two parts come from DMD2 (Yin et al. 2024): several critic turns per generator turn (section 4.2), and a warm start by
regression (as for its one-step SDXL), which lets distribution matching start with every mode of the teacher.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.clipping import clip
from dmd.distillation.inputs.batches import TrainingImages, draw_pairs
from dmd.distillation.losses import (
    denoising_loss,
    distribution_matching_loss,
    normaliser,
    regression_loss,
    score_difference,
)
from dmd.distillation.methods.base import Method, Setting
from dmd.distillation.monitors import constant, gradient_by_time, image_statistics
from dmd.distillation.networks import Networks
from dmd.distillation.perceptual import Lpips
from dmd.distillation.phases import Phase, Turn
from dmd.features.frozen import FrozenNetwork
from dmd.samplers.ddim import ode_times, trajectory
from dmd.samplers.few_step import generate
from dmd.teachers.pairs import Pairs
from dmd.training.random_source import RandomSource

MAX_TRAJECTORY_STEPS = 10  # largest number of teacher passes for the regression target of a later generator step

Losses = dict[str, Tensor]
Reweight = Callable[[Tensor, Networks, Tensor, Tensor, Cond], Tensor]  # (grad, networks, x_t, t, cond) -> grad


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
        if not setting.has_images and not setting.pairs:
            problems.append("pairs.count: a run on prompts alone is validated against pairs; set it above 0")
        return problems

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator, then of the critic, then distribution matching."""
        warm, k = cfg.warm_start, self.cfg.critic_turns
        critic = Turn("critic", 1, cfg.batch_size, cfg.lr_critic)
        generator = Turn("generator", k, cfg.generator_batch_size, cfg.lr_generator)
        phases = (
            Phase(
                name="warm_start",
                steps=warm.turns,
                turns=(Turn("generator", 1, warm.batch_size, warm.lr),),
                loss=self.warm_start_loss,
                lr_schedule="cosine",
                is_preparation=True,
            ),
            Phase(
                name="catch_up",
                steps=warm.critic_turns,
                turns=(critic,),
                loss=self.loss,
                lr_schedule="constant",
            ),
            Phase(
                name="distill",
                steps=cfg.generator_turns * k,
                turns=(critic, generator),
                loss=self.loss,
                lr_schedule=cfg.lr_schedule,
            ),
        )
        return tuple(phase for phase in phases if phase.steps)

    def loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The loss of a turn on the images that the generator makes from z."""
        x = self.generate(network, nets, z, cond, rng)
        return self.critic_loss(nets, x, cond, rng) if network == "critic" else self.generator_loss(nets, x, cond, rng)

    def warm_start_loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """Regression alone: noise and conditions come from the pairs, not from z and cond."""
        loss = self.regression(nets, rng)
        return {"total": loss, "regression": loss.detach()}

    def generate(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Tensor:
        """x = G(z) [B, C, H, W], with gradient in the generator's own turn.

        A generator of several steps is trained by backward simulation (DMD2, section 4.5): its own trajectory, stopped
        at a step that is drawn once for the whole batch and is equal in all processes.
        """
        last = rng.common_integer(len(self.generator_times)) if self.cfg.steps > 1 else 0
        with torch.set_grad_enabled(network == "generator"):
            x = generate(nets.generator, z, self.generator_times[: last + 1], cond)
            return clip(x) if self.cfg.clip else x

    def critic_loss(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """Denoising loss on generated images x at t in [0, T), with the loss weight of the teacher's own training."""
        t = rng.integers(0, self.timesteps)
        x_t = nets.critic.process.add_noise(x, rng.noise_like(x), t)
        loss = denoising_loss(nets.critic(x_t, t, cond), x, nets.critic.loss_weight(t))
        return {"total": loss, "denoising": loss.detach()}

    def generator_loss(
        self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, reweight: Reweight | None = None
    ) -> Losses:
        """Distribution matching at t in [t_min T, t_max T]; gradients reach the generator through x alone.

        reweight changes the score difference sample by sample.
        """
        low, high = int(self.cfg.t_min * self.timesteps), min(int(self.cfg.t_max * self.timesteps), self.timesteps - 1)
        t = rng.integers(low, high + 1)
        with torch.no_grad():
            x_t = nets.teacher.process.add_noise(x, rng.noise_like(x), t)
            real = nets.teacher(x_t, t, cond)
            fake = nets.critic(x_t, t, cond)
        grad = score_difference(x, real, fake, self.cfg.normaliser_min)
        if reweight is not None:
            grad = reweight(grad, nets, x_t, t, cond)
        loss = distribution_matching_loss(x, grad)
        losses = {"total": loss, "dm": loss.detach()}
        if self.cfg.regression_weight > 0:
            regression = self.regression(nets, rng)
            losses |= {"total": loss + self.cfg.regression_weight * regression, "regression": regression.detach()}
        clamped = (normaliser(x.detach(), real) < self.cfg.normaliser_min).double().mean()
        data_statistics = {name: constant(value, x.device) for name, value in self.data_statistics.items()}
        monitors = image_statistics(x) | data_statistics | gradient_by_time(grad, t, self.timesteps)
        return losses | {"clamped": clamped} | monitors

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
