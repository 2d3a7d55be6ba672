"""Heads on the levels of a trunk: small convolutional networks whose patch logits tell data from generated images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmd.distillation.gan.mixing import RandomMixing, Shape

WIDTH = 64  # channels of a head
MAX_SIDE = 8  # pixels: strided convolutions halve a level until it is no larger
GROUPS = 4
SLOPE = 0.2  # of the leaky rectifier


class Head(nn.Module):
    """Activations [B, C, H, W] of one level, and labels [B] -> patch logits [B, P].

    Class condition by projection (Miyato and Koyama 2018): w h + <e(label), h> / sqrt(width) for the features h of a
    patch. Embeddings start at zero, so the head starts without the label.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        """classes: number of conditions, 0 for an unconditional head."""
        super().__init__()
        channels, side = shape[0], max(shape[1:])
        layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 1)]
        while side > MAX_SIDE:
            layers += [nn.GroupNorm(GROUPS, WIDTH), nn.LeakyReLU(SLOPE), nn.Conv2d(WIDTH, WIDTH, 4, 2, padding=1)]
            side //= 2
        layers += [nn.GroupNorm(GROUPS, WIDTH), nn.LeakyReLU(SLOPE), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
        self.logit = nn.Conv2d(WIDTH, 1, 1)
        self.embedding = nn.Embedding(classes, WIDTH) if classes else None
        if self.embedding is not None:
            nn.init.zeros_(self.embedding.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        h = self.body(x)
        logits = self.logit(h)
        if self.embedding is not None and labels is not None:
            projection = (self.embedding(labels)[:, :, None, None] * h).sum(dim=1, keepdim=True)
            logits = logits + projection / WIDTH**0.5
        return logits.flatten(1)


class TrunkHeads(nn.Module):
    """Levels of a trunk and labels [B] -> patch logits [B, P] of each level."""

    def __init__(self, shapes: Sequence[Shape], classes: int, mixing: str = "none") -> None:
        """mixing: none, channels, or channels_and_scales."""
        super().__init__()
        self.mixing = None if mixing == "none" else RandomMixing(shapes, mixing == "channels_and_scales")
        self.heads = nn.ModuleList(Head(s, classes) for s in (self.mixing.shapes if self.mixing else shapes))

    def forward(self, levels: Sequence[Tensor], labels: Tensor | None) -> list[Tensor]:
        mixed = levels if self.mixing is None else self.mixing(levels)
        return [head(x, labels) for head, x in zip(self.heads, mixed, strict=True)]


def scores(logits: Sequence[Tensor]) -> Tensor:
    """One number per sample [B]: the mean over levels of the mean over patches, from logits [B, P] of each level."""
    return torch.stack([level.mean(dim=1) for level in logits]).mean(dim=0)


def new_heads(shapes: Sequence[Shape], classes: int, mixing: str, seed: int) -> TrunkHeads:
    """Heads whose weights depend on the seed alone; the global random state is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TrunkHeads(shapes, classes, mixing)
