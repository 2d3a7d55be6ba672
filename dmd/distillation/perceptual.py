"""LPIPS (Zhang et al. 2018), the regression loss of DMD's paper: distances between activations of a VGG16.

The heads come with the package `lpips`; the VGG16 is torchvision's checkpoint, read from a path and never fetched.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd.config import WeightsSource
from dmd.errors import ConfigError
from dmd.storage.files import sha256

SIZE = 224  # pixels: smaller images are enlarged to it, as DMD does


class Lpips(nn.Module):
    """Mean LPIPS of two sets of images [B, 1 or 3, H, W] in [-1, 1]; grey images become RGB."""

    def __init__(self, source: WeightsSource) -> None:
        """Raises ConfigError where the checkpoint is missing, is another one than asked for, or does not fit."""
        super().__init__()
        from lpips import LPIPS  # it imports torchvision, and only this loss needs it

        self.net = LPIPS(net="vgg", pnet_rand=True, verbose=False)
        self.net.net.load_state_dict(self._vgg(Path(source.weights), source.sha256))
        self.net.requires_grad_(False).eval()

    def _vgg(self, file: Path, expected: str) -> dict[str, Tensor]:
        """features.N.* of torchvision's VGG16 under the names that lpips gives the same layers."""
        try:
            found = sha256(file)
            if expected not in ("any", found):
                raise ConfigError(f"method.lpips.sha256: {file} has {found}")
            state = torch.load(file, map_location="cpu", weights_only=True)
            names = {name: f"features.{name.partition('.')[2]}" for name in self.net.net.state_dict()}
            return {name: state[theirs] for name, theirs in names.items()}
        except ConfigError:
            raise
        except Exception as e:  # torch, pickle and zipfile each raise kinds of their own
            reason = " ".join(str(e).split())[:200]
            raise ConfigError(
                f"method.lpips.weights: {file} is not torchvision's checkpoint of VGG16 ({reason})"
            ) from None

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """A scalar; gradients flow to x."""
        self.net.to(x.device)
        return self.net(_enlarged(x), _enlarged(target)).mean()


def _enlarged(x: Tensor) -> Tensor:
    rgb = x.expand(-1, 3, -1, -1).float()
    if min(rgb.shape[-2:]) >= SIZE:
        return rgb
    return F.interpolate(rgb, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
