"""f-distill (Xu et al. 2025): the score difference, weighted by the discriminator's estimate of p_real / p_fake.

The gradient of D_f(p_real || p_fake) on x is that of the reverse KL times h(r) = f''(r) r^2, with r = p_real / p_fake.
The logistic discriminator estimates r as exp(logit). Reverse KL has h = 1 (DMD2 itself); forward KL, which covers
modes, has h = r; Jensen-Shannon lies between them with h = r / (1 + r).
"""

import torch
from torch import Tensor

from dmd.config import MethodConfig
from dmd.diffusion.process import append_dims
from dmd.distillation.gan.trunks import of_the_critic
from dmd.distillation.methods.dmd import Score
from dmd.distillation.methods.dmd2 import DMD2
from dmd.distillation.networks import Networks

MAX_RATIO = 10.0  # clamp of r: a confident discriminator must not let one sample dominate the batch
H_AT_ONE = 0.5  # h at r = 1, where the discriminator cannot tell data from generated images


class FDistill(DMD2):
    """DMD2 with the weight h(r) / h(1) of the Jensen-Shannon divergence, so that learning rates keep their meaning.

    The paper divides by the mean of h over the batch instead. A part of a batch does not know that mean; its own mean
    would give every weight 1 if each part held one image.
    """

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """Heads on the critic must estimate the ratio, and train on every noise level at which they reweight."""
        problems = super().check_params(cfg)
        if of_the_critic(cfg.gan.trunks) is None:
            problems.append("method.gan.trunks: f_distill weights by the critic's heads; add critic")
        if cfg.gan.loss == "hinge":
            problems.append("method.gan.loss: f_distill weights by the ratio that a logistic loss gives; use logistic")
        for key, value, needed in (("t_min", cfg.gan.t_min, 0.0), ("t_max", cfg.gan.t_max, 1.0)):
            if value != needed:
                problems.append(
                    f"method.gan.{key}: {value} is not allowed; f_distill weights samples at every t, so use {needed}"
                )
        return problems

    def reweight(self, grad: Tensor, nets: Networks, score: Score) -> Tensor:
        """grad h(r) / h(1), with r [B] from the discriminator's logits on x_t [B, C, H, W]."""
        with torch.no_grad():
            r = self.logits(nets, score.x_t, score.t, score.cond).mean(dim=1).exp().clamp_max(MAX_RATIO)
        return grad * append_dims(r / (1 + r) / H_AT_ONE, grad.ndim)
