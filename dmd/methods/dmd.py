"""DMD (Yin et al. 2023, algorithm 1): distribution matching, with regression on teacher pairs where they are given.

Two things come from DMD2 (Yin et al. 2024): several critic turns per generator turn (section 4.2), and a warm start by
regression (its one-step SDXL), after which distribution matching begins with every mode of the teacher in place.
"""

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.denoisers import Cond
from dmd.losses import denoising_loss, distribution_matching_loss, regression_loss
from dmd.methods.base import Method, Networks, Phase
from dmd.pairs import Pairs
from dmd.sampling import one_step


class DMD(Method):
    """The generator follows the score difference; the critic follows the generator."""

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator, then of the critic, then distribution matching."""
        warm, k = cfg.warm_start, self.cfg.critic_turns
        lr = {"generator": cfg.lr_generator, "critic": cfg.lr_critic}
        run = (
            Phase(
                "warm_start", warm.turns, {"generator": 1}, self._warm_start, warm.batch_size,
                {"generator": warm.lr}, "cosine",
            ),
            Phase("catch_up", warm.critic_turns, {"critic": 1}, self.loss, cfg.batch_size, lr, "constant"),
            Phase(
                "distill", cfg.generator_turns * k, {"critic": 1, "generator": k}, self.loss, cfg.batch_size,
                lr, cfg.lr_schedule,
            ),
        )  # fmt: skip
        return tuple(phase for phase in run if phase.steps)

    def _warm_start(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: torch.Generator) -> dict[str, Tensor]:
        """Regression alone: z and cond come from the pairs."""
        loss = self._regression(nets, len(z), rng)
        return {"total": loss, "regression": loss.detach()}

    def loss(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: torch.Generator) -> dict[str, Tensor]:
        return self._critic(nets, z, cond, rng) if turn == "critic" else self._generator(nets, z, cond, rng)

    def _critic(self, nets: Networks, z: Tensor, cond: Cond, rng: torch.Generator) -> dict[str, Tensor]:
        """Denoising loss on the generator's images over the whole range of t, in the teacher's own weighting."""
        with torch.no_grad():
            x = one_step(nets.generator, z, self.generator_timestep, cond)
        t = self.draw_t(len(x), 0, self.timesteps - 1, rng).to(x.device)
        x_t = nets.critic.process.add_noise(x, draw_eps(x, rng), t)
        return {"total": denoising_loss(nets.critic(x_t, t, cond), x, nets.critic.loss_weight(t))}

    def _generator(self, nets: Networks, z: Tensor, cond: Cond, rng: torch.Generator) -> dict[str, Tensor]:
        """Distribution matching at t in [t_min T, t_max T]; gradients reach the generator through x alone."""
        x = one_step(nets.generator, z, self.generator_timestep, cond)
        low, high = int(self.cfg.t_min * self.timesteps), min(int(self.cfg.t_max * self.timesteps), self.timesteps - 1)
        t = self.draw_t(len(x), low, high, rng).to(x.device)
        with torch.no_grad():
            x_t = nets.teacher.process.add_noise(x, draw_eps(x, rng), t)
            real = nets.teacher(x_t, t, cond)
            fake = nets.critic(x_t, t, cond)
        losses = {"dm": distribution_matching_loss(x, real, fake, self.cfg.normaliser_min)}
        losses["total"] = losses["dm"]
        if self.cfg.regression_weight > 0:
            losses["regression"] = self._regression(nets, len(x), rng)
            losses["total"] = losses["dm"] + self.cfg.regression_weight * losses["regression"]
        return losses | {"x_mean": x.detach().mean(), "x_std": x.detach().std()}

    def _regression(self, nets: Networks, n: int, rng: torch.Generator) -> Tensor:
        """The generator's image against the teacher's for the same noise (DMD eq. 9)."""
        batch: Pairs = self.pairs.draw(n, rng)
        x = one_step(nets.generator, batch.z, self.generator_timestep, batch.labels)
        return regression_loss(x, batch.x)

    @staticmethod
    def draw_t(n: int, low: int, high: int, rng: torch.Generator) -> Tensor:
        """n indices, uniform over the integers low..high, both included."""
        return torch.randint(low, high + 1, (n,), generator=rng)


def draw_eps(x: Tensor, rng: torch.Generator) -> Tensor:
    """Unit noise like x, drawn on the CPU."""
    return torch.randn(x.shape, generator=rng).to(x)
