"""Decoupled DMD (Liu et al. 2025): distribution matching and guidance of a teacher, each at noise levels of its own.

The score difference of a guided teacher is that of the unguided one plus (scale - 1) times the difference that the
condition makes. The first part, DM, keeps the distribution; the second, CA, sharpens images.
"""

import torch
from torch import Tensor

from dmd.config import MethodConfig
from dmd.diffusion.denoiser import Cond, Guided
from dmd.distillation.losses import add_augmentation, score_difference
from dmd.distillation.methods.base import Setting
from dmd.distillation.methods.dmd import DMD, Losses, Score
from dmd.distillation.networks import Networks
from dmd.training.random_source import RandomSource

GUIDED_BY_INPUT = (
    "method.name: decoupled needs predictions without guidance, but this teacher takes guidance.scale as an input; use "
    "dmd"
)


class Decoupled(DMD):
    """DMD whose guidance acts at noise levels below the one at which the generator's step starts."""

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """The teacher must predict without guidance."""
        problems = super().check_setting(cfg, setting)
        if setting.guided_by_input:
            problems.append(GUIDED_BY_INPUT)
        return problems

    def direction(self, nets: Networks, x: Tensor, cond: Cond, rng: RandomSource) -> tuple[Tensor, Score, Losses]:
        """DM - (scale - 1) CA, and the mean size of both terms. Raises ValueError without guidance or condition."""
        if not isinstance(nets.teacher, Guided) or cond is None:
            raise ValueError("decoupled needs a guided teacher and a condition")
        score = self.score(nets, nets.teacher.unguided, x, cond, rng)
        matching = self.matching(score)
        t = rng.integers(*self.augmentation_range(self.last_step(rng)))
        with torch.no_grad():
            x_t = nets.teacher.process.add_noise(x, rng.noise_like(x), t)
            real, without = nets.teacher.predict_both(x_t, t, cond)
        difference = score_difference(x, real, without, self.cfg.normaliser_min)
        scale = 1 + (nets.teacher.scale - 1) * nets.teacher.is_guided(t).to(x.dtype)
        grad = add_augmentation(matching, difference, scale)
        numbers = {"matching": matching.abs().mean(), "augmentation": (grad - matching).abs().mean()}
        return grad, score, numbers

    def augmentation_range(self, step: int) -> tuple[int, int]:
        """The range [low, high) of t for guidance, within that of the score difference.

        A generator of several steps is guided below the t at which `step` starts; for one step, the whole range counts.
        """
        low, high = self.score_range()
        if self.cfg.steps > 1:
            high = min(high, self.generator_times[step] - 1)
        return max(min(low, high), 0), max(high, 0) + 1
