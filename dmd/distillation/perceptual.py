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
        weights = _read_vgg(Path(source.weights), source.sha256)
        from lpips import LPIPS  # it imports torchvision, which no other loss needs

        self.net = LPIPS(net="vgg", pnet_rand=True, verbose=False)
        vgg = self.net.net
        try:
            # lpips has the layers of torchvision under names of its own, slice1.0.weight for features.0.weight.
            vgg.load_state_dict({name: weights[f"features.{name.partition('.')[2]}"] for name in vgg.state_dict()})
        except (KeyError, RuntimeError) as e:  # a layer is missing, or has another shape
            raise _not_vgg(source.weights, e) from None
        self.net.requires_grad_(False).eval()

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


def _read_vgg(file: Path, expected: str) -> dict[str, Tensor]:
    """The weights of torchvision's VGG16, by its names. Raises ConfigError: missing, damaged, or of another hash."""
    try:
        digest = sha256(file)
        if expected not in ("any", digest):
            raise ConfigError(f"method.lpips.sha256: {file} has {digest}; correct the hash or replace the file")
        state = torch.load(file, map_location="cpu", weights_only=True)
        if infinite := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ConfigError(f"method.lpips.weights: {file}: {infinite[0]} has NaN or infinite values; replace it")
        return state
    except ConfigError:
        raise
    except Exception as e:  # torch, pickle and zipfile each raise error types of their own
        raise _not_vgg(file, e) from None


def _not_vgg(file: Path | str, error: Exception) -> ConfigError:
    """The error of a file that is no checkpoint of VGG16."""
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"method.lpips.weights: {file} is not torchvision's checkpoint of VGG16 ({reason})")
