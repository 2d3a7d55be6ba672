"""GDD (Zheng and Yang 2024, "Diffusion Models Are Innate One-Step Generators"): adversarial training alone.

The generator starts from the teacher's weights and learns from a discriminator on frozen trunks. No turn passes through
teacher or critic. An anchor may be added: the regression loss on the teacher's pairs, which keeps classes and modes.
"""

from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.divergence.signs import SPREAD, image_spread
from dmd.distillation.gan.trunks import of_the_critic
from dmd.distillation.methods.adversarial import DISCRIMINATOR, Adversarial
from dmd.distillation.methods.dmd import Losses
from dmd.distillation.monitors import image_statistics
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase, Turn
from dmd.training.random_source import RandomSource


class GDD(Adversarial):
    """Generator and discriminator in turn, one to one, after a warm start of either if the parameters ask for it."""

    has_critic = False

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """Without a critic, no trunk can train in its turn."""
        problems = super().check_params(cfg)
        if name := of_the_critic(cfg.gan.trunks):
            problems.append(f"method.gan.trunks: gdd has no critic, so {name} cannot train; use frozen trunks alone")
        return problems

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator on pairs, then of the discriminator alone, then both in turn."""
        generator = Turn("generator", 1, cfg.generator_batch_size, cfg.lr_generator)
        adversarial = Phase(
            name="adversarial",
            steps=cfg.generator_turns,
            turns=(*self.discriminator_turns(cfg), generator),
            loss=self.loss,
            lr_schedule=cfg.lr_schedule,
            reads_images=self.turns_with_images(),
            reads_pairs=self.turns_with_pairs(),
        )
        return *self.warm_start(cfg), *self.warm_up(cfg), adversarial

    def loss(self, network: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The GAN losses; in the generator's turn also the anchor, regression_weight times the loss on pairs."""
        if network.startswith(DISCRIMINATOR):
            return self.discriminator_loss(network, nets, z, cond, rng)
        data, cond = self.draw_for_generator(z, cond, rng)
        x = self.generate(network, nets, z, cond, rng)
        losses = self.trunks_loss(nets, x, data, cond, rng)
        if self.cfg.regression_weight > 0:
            anchor = self.regression(nets, rng)
            losses |= {"total": losses["total"] + self.cfg.regression_weight * anchor, "regression": anchor.detach()}
        return losses | image_statistics(x) | {SPREAD: image_spread(x)}
