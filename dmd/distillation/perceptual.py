"""LPIPS (Zhang et al. 2018), the regression loss of the DMD paper: distances between activations of a VGG16.

The linear heads come with the package `lpips`. The VGG16 is torchvision's checkpoint, read from a path, never fetched.
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
        """Raises ConfigError if the checkpoint is missing, has another hash than source.sha256, or does not fit."""
        super().__init__()
        from lpips import LPIPS  # it imports torchvision, which no other loss needs

        self.net = LPIPS(net="vgg", pnet_rand=True, verbose=False)
        self.net.net.load_state_dict(self._vgg(Path(source.weights), source.sha256))
        self.net.requires_grad_(False).eval()

    def _vgg(self, file: Path, expected: str) -> dict[str, Tensor]:
        """The weights features.N.* of torchvision's VGG16, under the names that lpips gives to the layers."""
        try:
            digest = sha256(file)
            if expected not in ("any", digest):
                raise ConfigError(f"method.lpips.sha256: {file} has {digest}; correct the hash or replace the file")
            state = torch.load(file, map_location="cpu", weights_only=True)
            if infinite := [name for name, value in state.items() if not value.isfinite().all()]:
                raise ConfigError(f"method.lpips.weights: {file}: {infinite[0]} has NaN or infinite values; replace it")
            names = {name: f"features.{name.partition('.')[2]}" for name in self.net.net.state_dict()}
            return {name: state[theirs] for name, theirs in names.items()}
        except ConfigError:
            raise
        except Exception as e:  # torch, pickle and zipfile each raise error types of their own
            reason = " ".join(str(e).split())[:200]
            raise ConfigError(
                f"method.lpips.weights: {file} is not torchvision's checkpoint of VGG16 ({reason})"
            ) from None

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The mean distance, a scalar; gradients flow to x."""
        self.net.to(x.device)
        return self.net(_enlarge(x), _enlarge(target)).mean()


def _enlarge(x: Tensor) -> Tensor:
    """RGB images of at least SIZE pixels a side."""
    rgb = x.expand(-1, 3, -1, -1).float()
    if min(rgb.shape[-2:]) >= SIZE:
        return rgb
    return F.interpolate(rgb, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
