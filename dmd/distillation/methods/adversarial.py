"""The parts of a method that has a discriminator on frozen trunks: checks, networks, turns and losses."""

from dataclasses import replace

from torch import Tensor

from dmd.codecs.pixels import Pixels
from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.gan.adversary import discriminator_loss, generator_loss, penalty_loss
from dmd.distillation.gan.trunk_discriminator import TrunkDiscriminator
from dmd.distillation.gan.trunks import find_mistakes, frozen, level_shapes, new_trunks, of_images, of_the_critic
from dmd.distillation.methods.base import Setting
from dmd.distillation.methods.dmd import DMD, Losses
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase, Turn
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource

DISCRIMINATOR, PENALTY = "discriminator", "penalty"


class Adversarial(DMD):
    """A method with a discriminator in turns of its own. Its phases decide when those turns come."""

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """Trunks must be known, with a weight for each or none; a relativistic loss needs pairs, which critics lack."""
        problems = super().check_params(cfg) + find_mistakes(cfg.gan.trunks)
        weights, trunks = cfg.gan.trunk_weights, frozen(cfg.gan.trunks)
        if weights and len(weights) != len(trunks):
            problems.append(
                f"method.gan.trunk_weights: {len(weights)} numbers for the frozen trunks "
                f"({', '.join(trunks) or 'none'}); give one for each, or []"
            )
        if cfg.gan.loss == "relativistic" and (name := of_the_critic(cfg.gan.trunks)):
            problems.append(f"method.gan.loss: relativistic compares pairs, which {name} does not see; use logistic")
        return problems

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """Networks trained on images need images; a discriminator needs data."""
        problems = super().check_setting(cfg, setting)
        if not setting.on_pixels:
            problems += [
                f"method.gan.trunks: {name} needs images, but this teacher works on latents; use critic or teacher"
                for name in of_images(cfg.gan.trunks)
            ]
            if cfg.gan.augment:
                problems.append("method.gan.augment: it needs images, but this teacher works on latents; use false")
        if not setting.has_images:
            problems.append(f"method.name: {cfg.name} needs images, but the data are prompts; use dmd")
        return problems

    @classmethod
    def frozen_networks(cls, cfg: MethodConfig) -> dict[str, str]:
        """The trunks that are networks of images."""
        return super().frozen_networks(cfg) | dict.fromkeys(of_images(cfg.gan.trunks), "method.gan.trunks")

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add a discriminator with heads on each level of each frozen trunk, if there is one."""
        nets, gan = super().extend(nets, teacher, seed), self.cfg.gan
        if not (names := frozen(gan.trunks)):
            return nets
        low, high = self.noise_range()
        trunks = new_trunks(names, self.frozen, teacher.denoiser, low, high)
        device = next(teacher.denoiser.parameters()).device
        shapes = {n: level_shapes(t, teacher.shape, device, bool(teacher.conditions)) for n, t in trunks.items()}
        on_pixels = isinstance(teacher.codec, Pixels)
        heads = TrunkDiscriminator(trunks, shapes, teacher.conditions, gan.mixing, seed, on_pixels, gan.augment)
        return replace(nets, discriminator=heads.to(device))

    def noise_range(self) -> tuple[int, int]:
        """The noise levels [low, high) of the noised images that a discriminator sees."""
        low, high = (round(share * self.timesteps) for share in (self.cfg.gan.t_min, self.cfg.gan.t_max))
        return min(low, self.timesteps - 1), max(low + 1, high)

    def discriminator_turns(self, cfg: TrainConfig, every: int = 1, lr_factor: float = 1.0) -> tuple[Turn, ...]:
        """The discriminator's turn at every `every`-th step, and its lazy penalty turn; none without frozen trunks."""
        gan = self.cfg.gan
        if not frozen(gan.trunks):
            return ()
        turn = Turn(DISCRIMINATOR, every, cfg.generator_batch_size, cfg.lr_discriminator * lr_factor)
        if gan.trunk_r1_weight == gan.trunk_r2_weight == 0:
            return (turn,)
        return turn, replace(turn, every=every * gan.penalty_every, purpose=PENALTY)

    def turns_with_images(self) -> tuple[str, ...]:
        """Turns that draw training images: the critic's if it has heads, the generator's if the loss needs pairs."""
        gan = self.cfg.gan
        names = [*super().turns_with_images(), DISCRIMINATOR, f"{DISCRIMINATOR}_{PENALTY}"]
        if of_the_critic(gan.trunks):
            names.append("critic")
        if gan.loss == "relativistic":
            names.append("generator")
        return tuple(dict.fromkeys(names))

    def warm_up(self, cfg: TrainConfig, lr_factor: float = 1.0) -> tuple[Phase, ...]:
        """A phase of the discriminator alone, if there is one and it has warm-up turns."""
        turns = self.discriminator_turns(cfg, lr_factor=lr_factor)
        if not turns or not self.cfg.gan.warmup_turns:
            return ()
        phase = Phase(
            name="discriminator_warm_up",
            steps=self.cfg.gan.warmup_turns,
            turns=turns,
            loss=self.discriminator_loss,
            lr_schedule="constant",
            reads_images=self.turns_with_images(),
        )
        return (phase,)

    def discriminator_loss(self, name: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> Losses:
        """The loss of the discriminator's turn, or of its penalty turn; both images of a pair have the data's label."""
        assert nets.discriminator is not None
        data, cond = self.draw_pair(z, cond, rng)
        x = self.generate(name, nets, z, cond, rng)
        loss = penalty_loss if name == f"{DISCRIMINATOR}_{PENALTY}" else discriminator_loss
        return loss(nets.discriminator, data, x, cond, rng, self.cfg.gan)

    def draw_pair(self, like: Tensor, cond: Cond, rng: RandomSource) -> tuple[Tensor, Cond]:
        """Data, and their labels as the conditions of the images that are generated beside them."""
        data, labels = self.data.draw(rng, like)
        return data, None if cond is None else labels

    def draw_for_generator(self, z: Tensor, cond: Cond, rng: RandomSource) -> tuple[Tensor | None, Cond]:
        """Data for the generator's turn, if the loss compares pairs, and the conditions of the turn."""
        needs_pairs = self.cfg.gan.loss == "relativistic" and bool(frozen(self.cfg.gan.trunks))
        return self.draw_pair(z, cond, rng) if needs_pairs else (None, cond)

    def trunks_loss(self, nets: Networks, x: Tensor, data: Tensor | None, cond: Cond, rng: RandomSource) -> Losses:
        """The generator's loss by the discriminator on frozen trunks, times gan.weight."""
        assert nets.discriminator is not None
        losses = generator_loss(nets.discriminator, x, data, cond, rng, self.cfg.gan)
        return losses | {"total": self.cfg.gan.weight * losses["total"]}
