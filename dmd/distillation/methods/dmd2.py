"""DMD2 (Yin et al. 2024): distribution matching without pairs, and a GAN loss on real data, in one phase or in two."""

from dataclasses import replace

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.distillation.activations import activations
from dmd.distillation.discriminator import detail, new_discriminator
from dmd.distillation.losses import critic_gan_loss, generator_gan_loss, r1_penalty
from dmd.distillation.methods.base import Networks, Phase
from dmd.distillation.methods.dmd import DMD, draw_eps
from dmd.distillation.random_source import RandomSource
from dmd.teachers.teacher import Teacher

NUDGE = 0.1  # of R1, in units of the noise


class DMD2(DMD):
    """The critic's encoder, or heads alone, tell real from generated too; the generator learns to pass for real."""

    def networks(self, teacher: Teacher, seed: int, ranks: tuple[int, int] = (0, 0), alpha: int = 0) -> Networks:
        """As in DMD, with heads on the critic's activations."""
        nets = super().networks(teacher, seed, ranks, alpha)
        first = next(teacher.denoiser.parameters())
        zero, device = torch.zeros(1, dtype=torch.long, device=first.device), first.device
        x = torch.zeros(1, *teacher.shape, device=device, dtype=first.dtype)
        with torch.no_grad():
            seen = self.seen(teacher.denoiser, x, zero, zero if teacher.classes else None)
        shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in seen]
        return replace(nets, discriminator=new_discriminator(shapes, seed).to(device))

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Up to gan.from_turn as DMD; then, from the best generator so far, with the GAN and lower learning rates.

        With the GAN from the start the discriminator learns while the critic catches up: before it knows anything, what
        it tells the generator is noise.
        """
        *before, distill = super().phases(cfg)
        gan, k = self.cfg.gan, self.cfg.critic_turns
        first = min(gan.from_turn, cfg.generator_turns)
        lr = {name: rate * (gan.lr_factor if first else 1.0) for name, rate in distill.lr.items()}
        if not first:
            before = [replace(p, loss=self.adversarial, gan=True) if p.name == "catch_up" else p for p in before]
        phases = (
            *before,
            replace(distill, steps=first * k),
            replace(
                distill, name="adversarial", steps=distill.steps - first * k, loss=self.adversarial, lr=lr,
                gan=True, from_best=first > 0,
            ),
        )  # fmt: skip
        return tuple(phase for phase in phases if phase.steps)

    def adversarial(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """The losses of DMD and, on the same generated images, those of the GAN."""
        x = self.generated(turn, nets, z, cond, rng)
        losses = self.of_images(turn, nets, x, cond, rng, taught=True)
        extra = self._critic_gan(nets, x, cond, rng) if turn == "critic" else self._generator_gan(nets, x, cond, rng)
        return losses | extra | {"total": losses["total"] + extra["gan_weighted"]}

    def _generator_gan(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """Gradients pass through the critic's encoder to x; the encoder itself learns nothing in this turn."""
        loss = generator_gan_loss(self.logits(nets, self.noised(nets, x, rng), cond))
        return {"gan": loss.detach(), "gan_weighted": self.cfg.gan.weight * loss}

    def _critic_gan(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> dict[str, Tensor]:
        """Real images with their own labels against the generated ones, each at its own t'."""
        gan = self.cfg.gan
        real, labels = self.real.draw(rng, x)
        labels = None if cond is None else labels
        real_t = self.noised(nets, real, rng)
        fake, true = self.logits(nets, self.noised(nets, x, rng), cond), self.logits(nets, real_t, labels)
        loss = critic_gan_loss(true, fake)
        if gan.r1_weight > 0:
            x_t, t = real_t
            nudged = self.logits(nets, (x_t + NUDGE * draw_eps(x_t, rng), t), labels)
            loss = loss + gan.r1_weight * r1_penalty(true, nudged, NUDGE)
        accuracy = ((fake < 0).double().mean() + (true > 0).double().mean()) / 2
        return {"gan": loss.detach(), "gan_weighted": gan.critic_weight * loss, "accuracy": accuracy}

    def noised(self, nets: Networks, x: Tensor, rng: RandomSource) -> tuple[Tensor, Tensor]:
        """(x_t', t') with t' up to gan.t_max, drawn for this purpose alone."""
        t = rng.integers(0, max(1, round(self.cfg.gan.t_max * self.timesteps))).to(x.device)
        return nets.critic.process.add_noise(x, draw_eps(x, rng), t), t

    def logits(self, nets: Networks, noised: tuple[Tensor, Tensor], cond: Cond) -> Tensor:
        """[B, heads]: large where a head takes x_t for a real image."""
        if nets.discriminator is None:
            raise ValueError("these networks have no discriminator")
        return nets.discriminator(self.seen(nets.critic, *noised, cond))

    def seen(self, critic: Denoiser, x_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        """What the heads read of x_t [B, C, H, W]: the critic's activations, or itself, or that and its detail."""
        which = self.cfg.gan.features
        if which == "detail":
            return [detail(x_t, critic.process.sigma(t))]
        return [x_t] if which == "image" else activations(critic, x_t, t, cond, which)
