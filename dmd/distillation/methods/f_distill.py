"""f-distill (Xu et al. 2025): the score difference weighted by how real the discriminator finds a sample.

The gradient of D_f(p_real || p_fake) on x is that of the reverse KL, times h(r) = f''(r) r^2, with r = p_real / p_fake,
which the logistic discriminator estimates as exp(logit). Reverse KL has h = 1 (DMD2 itself); forward KL, which seeks
to cover modes, has h = r; Jensen-Shannon lies between, h = r / (1 + r).
"""

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond
from dmd.diffusion.process import append_dims
from dmd.distillation.methods.base import Networks
from dmd.distillation.methods.dmd2 import DMD2

MAX_RATIO = 10.0  # of r: a discriminator that is sure of itself must not drown the batch in one sample
EVEN = 0.5  # h where real and generated are alike, r = 1


class FDistill(DMD2):
    """DMD2 with the Jensen-Shannon divergence's weight, over its value at r = 1: the learning rate keeps its meaning.

    The paper divides by the batch's mean, which a part of a batch does not know: with one image in each part it would
    be DMD2.
    """

    def weigh(self, grad: Tensor, nets: Networks, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """By what the discriminator says of x_t; not called before it learns."""
        with torch.no_grad():
            ratio = self.logits(nets, (x_t, t), cond).mean(dim=1).exp().clamp_max(MAX_RATIO)
        return grad * append_dims(ratio / (1 + ratio) / EVEN, grad.ndim)
