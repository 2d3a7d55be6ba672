"""Features of images by frozen networks: activations averaged over positions."""

from collections.abc import Mapping

from torch import Tensor

from dmd.distillation.clipping import clip
from dmd.features.frozen import FrozenNetwork


class Features:
    """Features [B, D] in float64 of images [B, C, H, W] in [-1, 1], by network, or by network and level."""

    def __init__(self, nets: Mapping[str, FrozenNetwork], all_levels: bool) -> None:
        """all_levels: one entry for each level, NAME.LEVEL, in place of one for the last level, NAME."""
        self.nets, self.all_levels = nets, all_levels

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Clip images x to [-1, 1] and return their features. Gradients flow to x as `clip` passes them."""
        features = {}
        for name, net in self.nets.items():
            levels = dict(zip(net.level_names, net(clip(x)), strict=True))
            if not self.all_levels:
                features[name] = _pooled([*levels.values()][-1])
            else:
                features |= {f"{name}.{level}": _pooled(maps) for level, maps in levels.items()}
        return features


def _pooled(maps: Tensor) -> Tensor:
    return maps.double().mean(dim=(2, 3))
