"""A discriminator on frozen trunks: it trains in turns of its own, and its trunks train in none."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dmd.diffusion.denoiser import Cond
from dmd.distillation.clipping import clip
from dmd.distillation.gan.augment import augment
from dmd.distillation.gan.heads import new_heads
from dmd.distillation.gan.mixing import Shape
from dmd.distillation.gan.trunks import Trunk
from dmd.training.random_source import RandomSource

Logits = dict[str, list[Tensor]]  # patch logits [B, P] of each level, by trunk


class TrunkDiscriminator(nn.Module):
    """Images [B, C, H, W] -> patch logits of each level, by trunk; a large logit stands for data.

    The trunks are no parts of the module: no optimizer, average or checkpoint holds them.
    """

    def __init__(
        self,
        trunks: Mapping[str, Trunk],
        shapes: Mapping[str, Sequence[Shape]],
        classes: int,
        mixing: str,
        seed: int,
        on_pixels: bool,
        augments: bool,
    ) -> None:
        """shapes: of the levels of each trunk. on_pixels: images are clipped to [-1, 1] before a trunk sees them."""
        super().__init__()
        self.trunks, self.on_pixels, self.augments = dict(trunks), on_pixels, augments
        self.heads = nn.ModuleList(new_heads(shapes[name], classes, mixing, seed + i) for i, name in enumerate(trunks))

    def prepare(self, x: Tensor, rng: RandomSource) -> Tensor:
        """The images as the trunks see them: clipped, so that they have data's range, and augmented."""
        x = clip(x) if self.on_pixels else x
        return augment(x, rng) if self.augments else x

    def forward(self, x: Tensor | Mapping[str, Tensor], cond: Cond, rng: RandomSource) -> Logits:
        """Logits of prepared images. x: one tensor, or one for each trunk, to tell their gradients apart."""
        of_trunk = dict.fromkeys(self.trunks, x) if isinstance(x, Tensor) else x
        return {
            name: heads(trunk(of_trunk[name], cond, rng), cond)
            for (name, trunk), heads in zip(self.trunks.items(), self.heads, strict=True)
        }


def label(trunk: str) -> str:
    """The name of a trunk in the log, of letters, digits, dots and underscores."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", trunk)


class GradientShares:
    """Measures each trunk's share of the gradient on the images, while the backward pass runs.

    `shares` holds scalars that are filled when every branch has had its gradient: the L2 norm of the branch's gradient
    over the sum of all norms.
    """

    def __init__(self, x: Tensor, names: Sequence[str]) -> None:
        """x [B, ...]: the images; names: of the branches through which they reach the loss."""
        self.shares = {name: torch.zeros((), dtype=torch.float64, device=x.device) for name in names}
        self.norms: dict[str, Tensor] = {}
        self.branches = {name: self._branch(x, name) for name in names}

    def _branch(self, x: Tensor, name: str) -> Tensor:
        branch = x.view_as(x)
        if branch.requires_grad:
            branch.register_hook(lambda grad: self._note(name, grad))
        return branch

    def _note(self, name: str, grad: Tensor) -> None:
        self.norms[name] = grad.detach().double().norm()
        if len(self.norms) == len(self.shares):
            total = torch.stack(list(self.norms.values())).sum()
            for key, norm in self.norms.items():
                self.shares[key].copy_(norm / total)
