"""DMD (Yin et al. 2023, algorithm 1): distribution matching, with regression on teacher pairs where they are given.

Two things come from DMD2 (Yin et al. 2024): several critic turns per generator turn (section 4.2), and a warm start by
regression (its one-step SDXL), after which distribution matching begins with every mode of the teacher in place.
"""

from functools import partial

import torch
from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.batches import TrainingImages, draw_pairs
from dmd.distillation.clipping import clip
from dmd.distillation.losses import (
    denoising_loss,
    distribution_matching_loss,
    normaliser,
    regression_loss,
    score_difference,
)
from dmd.distillation.methods.base import Method, Networks, Phase
from dmd.distillation.monitors import by_time, image_statistics
from dmd.distillation.perceptual import Lpips
from dmd.distillation.random_source import RandomSource
from dmd.samplers.ddim import ode_times, trajectory
from dmd.samplers.few_step import generate
from dmd.teachers.pairs import Pairs

TRAJECTORY_STEPS = 10  # of the teacher, to the target of a later step, at most


class DMD(Method):
    """The generator follows the score difference; the critic follows the generator."""

    def __init__(
        self, cfg: MethodConfig, timesteps: int, pairs: Pairs, real: TrainingImages, default_timestep: int | None = None
    ) -> None:
        super().__init__(cfg, timesteps, pairs, real, default_timestep)
        kind = cfg.regression_loss
        self.distance = Lpips(cfg.lpips) if kind == "lpips" else partial(regression_loss, kind=kind)

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator, then of the critic, then distribution matching."""
        warm, k = cfg.warm_start, self.cfg.critic_turns
        lr = {"generator": cfg.lr_generator, "critic": cfg.lr_critic}
        size = {"generator": cfg.generator_batch_size, "critic": cfg.batch_size}
        run = (
            Phase(
                "warm_start", warm.turns, {"generator": 1}, self._warm_start, {"generator": warm.batch_size},
                {"generator": warm.lr}, "cosine", prepares=True,
            ),
            Phase("catch_up", warm.critic_turns, {"critic": 1}, self.loss, size, lr, "constant"),
            Phase(
                "distill", cfg.generator_turns * k, {"critic": 1, "generator": k}, self.loss, size,
                lr, cfg.lr_schedule,
            ),
        )  # fmt: skip
        return tuple(phase for phase in run if phase.steps)

    def loss(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """The loss of a turn in which z [B, C, H, W], or [B, N, C, H, W] for N steps, becomes images first."""
        return self.of_images(turn, nets, self.generated(turn, nets, z, cond, rng), cond, rng)

    def generated(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Tensor:
        """x = G(z), with gradient in the generator's own turn.

        With several steps this is backward simulation (DMD2, section 4.5): the generator's own trajectory, ended at a
        step drawn once for the whole batch, in which all processes agree.
        """
        last = rng.common_integer(len(self.timesteps_of_generator)) if self.cfg.steps > 1 else 0
        with torch.set_grad_enabled(turn == "generator"):
            x = generate(nets.generator, z, self.timesteps_of_generator[: last + 1], cond)
            return clip(x) if self.cfg.clip else x

    def of_images(
        self, turn: str, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, taught: bool = False
    ) -> dict[str, Tensor]:
        """The loss of a turn, given the generated images; taught: a discriminator learns in this phase."""
        return self._critic(nets, x, cond, rng) if turn == "critic" else self._generator(nets, x, cond, rng, taught)

    def _warm_start(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """Regression alone: z and cond come from the pairs."""
        loss = self._regression(nets, rng)
        return {"total": loss, "regression": loss.detach()}

    def _critic(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """Denoising loss on the generator's images over the whole range of t, in the teacher's own weighting."""
        t = rng.integers(0, self.timesteps).to(x.device)
        x_t = nets.critic.process.add_noise(x, draw_eps(x, rng), t)
        loss = denoising_loss(nets.critic(x_t, t, cond), x, nets.critic.loss_weight(t))
        return {"total": loss, "denoising": loss.detach()}

    def _generator(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, taught: bool) -> dict[str, Tensor]:
        """Distribution matching at t in [t_min T, t_max T]; gradients reach the generator through x alone."""
        low, high = int(self.cfg.t_min * self.timesteps), min(int(self.cfg.t_max * self.timesteps), self.timesteps - 1)
        t = rng.integers(low, high + 1).to(x.device)
        with torch.no_grad():
            x_t = nets.teacher.process.add_noise(x, draw_eps(x, rng), t)
            real = nets.teacher(x_t, t, cond)
            fake = nets.critic(x_t, t, cond)
        grad = score_difference(x, real, fake, self.cfg.normaliser_min)
        if taught:
            grad = self.weigh(grad, nets, x_t, t, cond)
        loss = distribution_matching_loss(x, grad)
        losses = {"total": loss, "dm": loss.detach()}
        if self.cfg.regression_weight > 0:
            regression = self._regression(nets, rng)
            losses |= {"total": loss + self.cfg.regression_weight * regression, "regression": regression.detach()}
        clamped = (normaliser(x.detach(), real) < self.cfg.normaliser_min).double().mean()
        return (
            losses
            | {"clamped": clamped}
            | image_statistics(x)
            | self.real_statistics
            | by_time(grad, t, self.timesteps)
        )

    def weigh(self, grad: Tensor, nets: Networks, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """What a method makes of the score difference [B, C, H, W]; DMD takes it as it is."""
        return grad

    def _regression(self, nets: Networks, rng: RandomSource) -> Tensor:
        """The generator's image against the teacher's for the same noise (DMD eq. 9).

        Of several steps one is drawn for the whole batch; a later one is shown a noised image of the teacher's, and its
        target is where the teacher's own trajectory leads from there. With the first step alone, a network that shares
        its weights over all of them would forget the others.
        """
        batch = draw_pairs(self.pairs, rng)
        k = rng.common_integer(len(self.timesteps_of_generator)) if self.cfg.steps > 1 else 0
        if k == 0:
            x, target = generate(nets.generator, batch.z, self.timesteps_of_generator[:1], batch.labels), batch.x
        else:
            first = self.timesteps_of_generator[k]
            t = torch.full((len(batch.x),), first, device=batch.x.device)
            x_t = nets.generator.process.add_noise(batch.x, draw_eps(batch.x, rng), t)
            x = nets.generator(x_t, t, batch.labels)
            with torch.no_grad():
                times = ode_times(first + 1, min(TRAJECTORY_STEPS, first + 1))
                target = trajectory(nets.teacher, x_t, times, batch.labels)
        return self.distance(x, target)


def draw_eps(x: Tensor, rng: RandomSource) -> Tensor:
    """Unit noise like x."""
    return rng.noise(*x.shape[1:]).to(x)
