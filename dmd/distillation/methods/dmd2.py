"""DMD2 (Yin et al. 2024): distribution matching without pairs and a GAN loss on real data, in one phase or in two.

The paper's discriminator is a head on the critic. Others read frozen trunks, and train in turns of their own.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.distillation.gan.activations import Recorder, activations
from dmd.distillation.gan.discriminator import new_discriminator, residual_features
from dmd.distillation.gan.losses import GAN_LOSSES, accuracy, logit_gap
from dmd.distillation.gan.trunks import OF_THE_CRITIC, of_the_critic
from dmd.distillation.losses import r1_penalty
from dmd.distillation.methods.adversarial import DISCRIMINATOR, Adversarial
from dmd.distillation.methods.base import Setting
from dmd.distillation.methods.dmd import DMD, Losses, Score
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase
from dmd.networks.half import input_type
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource

NUDGE = 0.1  # step of R1's finite difference, in units of the noise


class DMD2(Adversarial):
    """DMD and a GAN loss: discriminators on the critic's activations, or on frozen trunks, tell data from images."""

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """In a shared pass, times and labels must have the distribution of those of data, or they tell images apart."""
        problems = super().check_params(cfg)
        if cfg.gan.shared_pass and (cfg.t_shift != 1 or cfg.condition_dropout):
            problems.append(
                f"method.gan.shared_pass: t_shift {cfg.t_shift:g} and condition_dropout {cfg.condition_dropout:g} "
                "change times and labels of generated images alone; set method.t_shift to 1 and "
                "method.condition_dropout to 0, or this to false"
            )
        return problems

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """The `detail` of an image is defined on pixels only."""
        problems = super().check_setting(cfg, setting)
        if "detail" in cfg.gan.trunks and not setting.on_pixels:
            problems.append("method.gan.trunks: detail needs images, but this teacher works on latents; use critic")
        return problems

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add heads on the critic, one for each level, or on frozen trunks, or both."""
        nets = super().extend(nets, teacher, seed)
        if of_the_critic(self.cfg.gan.trunks) is None:
            return nets
        first = next(teacher.denoiser.parameters())
        zero, device = torch.zeros(1, dtype=torch.long, device=first.device), first.device
        x = torch.zeros(1, *teacher.shape, device=device, dtype=input_type(first))
        with torch.no_grad():
            features = self.features(teacher.denoiser, x, zero, zero if teacher.conditions else None)
        shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in features]
        return replace(nets, critic_heads=new_discriminator(shapes, seed).to(device))

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """DMD until gan.from_turn; then, from the best generator so far, the GAN loss and lower learning rates.

        With the GAN loss from the start, the discriminator already trains while the critic catches up: an untrained
        discriminator would give the generator noise.
        """
        *before, distill = super().phases(cfg)
        gan, k = self.cfg.gan, self.cfg.critic_turns
        first = min(gan.from_turn, cfg.generator_turns)
        alone = DMD.turns_with_images(self)  # the losses of DMD read no images for the discriminator
        if not first:
            before = [replace(p, loss=self.adversarial_loss) if p.name == "catch_up" else p for p in before]
        else:
            before = [replace(p, reads_images=alone) if p.name == "catch_up" else p for p in before]
        factor = gan.lr_factor if first else 1.0
        warm_up = tuple(replace(phase, starts_from_best=first > 0) for phase in self.warm_up(cfg, factor))
        start, end = (replace(turn, lr=turn.lr * factor) for turn in distill.turns)
        adversarial = replace(
            distill,
            name="adversarial",
            steps=distill.steps - first * k,
            turns=(start, *self.discriminator_turns(cfg, k, factor), end),
            loss=self.adversarial_loss,
            starts_from_best=first > 0 and not warm_up,
        )
        phases = (*before, replace(distill, steps=first * k, reads_images=alone), *warm_up, adversarial)
        return tuple(phase for phase in phases if phase.steps)

    def adversarial_loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The losses of DMD and of the GAN on the same generated images."""
        if network.startswith(DISCRIMINATOR):
            return self.discriminator_loss(network, nets, z, cond, rng)
        data, cond = self.draw_for_generator(z, cond, rng) if network == "generator" else (None, cond)
        x, cond = self.draw_images(network, nets, z, cond, rng)
        if network == "critic":
            denoise = self.recorder(nets) if self.cfg.gan.shared_pass and nets.critic_heads else None
            losses = self.critic_loss(nets, x, cond, rng, denoise)
            seen = denoise.activations if denoise else None
            more = [self.critic_gan(nets, x, cond, rng, seen)] if nets.critic_heads else []
        else:
            losses = self.generator_loss(nets, x, cond, rng, self.reweight)
            more = [self.generator_gan(nets, x, cond, rng)] if nets.critic_heads else []
            if nets.discriminator:
                seen = self.trunks_loss(nets, x, data, cond, rng)
                total = seen.pop("total")
                more.append({f"trunk_{name}": value for name, value in seen.items()} | {"gan_weighted": total})
        for gan_losses in more:
            losses |= gan_losses | {"total": losses["total"] + gan_losses["gan_weighted"]}
        return losses

    def reweight(self, grad: Tensor, nets: Networks, score: Score) -> Tensor:
        """The score difference grad [B, C, H, W], unchanged; a subclass may weight it by the discriminator."""
        return grad

    def generator_gan(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The generator's GAN loss. Gradients pass through the critic's encoder to x; the encoder does not train."""
        logits = self.logits(nets, *self.add_noise(nets, x, rng), cond)
        loss = GAN_LOSSES[self.cfg.gan.loss].generator(logits, logits)
        return {"gan": loss.detach(), "gan_weighted": self.cfg.gan.weight * loss}

    def recorder(self, nets: Networks) -> Recorder:
        """The critic, whose pass keeps the activations that its heads read."""
        return Recorder(nets.critic, OF_THE_CRITIC[of_the_critic(self.cfg.gan.trunks) or "critic"])

    def critic_gan(
        self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource, seen: list[Tensor] | None = None
    ) -> Losses:
        """The discriminator's GAN loss: data with their own labels against generated images, each at its own t'.

        seen: activations of the generated images from the pass of the denoising loss, in place of a pass of their own.
        """
        gan = self.cfg.gan
        data, labels = self.data.draw(rng, x)
        labels = None if cond is None else labels
        data_t, t = self.add_noise(nets, data, rng)
        if seen is not None and nets.critic_heads is not None:
            fake_logits = nets.critic_heads(seen)
        else:
            fake_logits = self.logits(nets, *self.add_noise(nets, x, rng), cond)
        data_logits = self.logits(nets, data_t, t, labels)
        loss = GAN_LOSSES[gan.loss].discriminator(data_logits, fake_logits)
        if gan.r1_weight > 0:
            nudged_logits = self.logits(nets, data_t + NUDGE * rng.noise_like(data_t), t, labels)
            loss = loss + gan.r1_weight * r1_penalty(data_logits, nudged_logits, NUDGE)
        return {
            "gan": loss.detach(),
            "gan_weighted": gan.critic_weight * loss,
            "accuracy": accuracy(data_logits, fake_logits),
            "gap": logit_gap(data_logits, fake_logits).detach(),
        }

    def add_noise(self, nets: Networks, x: Tensor, rng: RandomSource) -> tuple[Tensor, Tensor]:
        """(x_t', t') with t' in [gan.t_min T, gan.t_max T), drawn for the discriminator alone."""
        t = rng.integers(*self.noise_range())
        return nets.critic.process.add_noise(x, rng.noise_like(x), t), t

    def logits(self, nets: Networks, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Logits [B, heads], large if a head classifies x_t as data. Raises ValueError without heads on the critic."""
        if nets.critic_heads is None:
            raise ValueError("these networks have no heads on the critic")
        return nets.critic_heads(self.features(nets.critic, x_t, t, cond))

    def features(self, critic: Denoiser, x_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        """The discriminator's input for x_t [B, C, H, W]: activations of the critic, the image, or its detail."""
        which = OF_THE_CRITIC[of_the_critic(self.cfg.gan.trunks) or "critic"]
        if which == "detail":
            return [residual_features(x_t, critic.process.sigma(t))]
        return [x_t] if which == "image" else activations(critic, x_t, t, cond, which)
