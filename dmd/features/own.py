"""A small convolutional network that the pipeline trains on its own data (stage `trunk`), as a frozen network."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmd.features.frozen import FrozenNetwork, Level
from dmd.storage.files import write_text

OWN = "own"  # its name in method.gan.trunks
GROUPS = 4
ROTATIONS = 4  # by multiples of a right angle
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class OwnNetwork(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> logits of the classes [B, K] and of the rotation [B, 4].

    Three stages of two convolutions each; the second and the third halve the image.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.settings = {"channels": channels, "width": width, "classes": classes}
        widths = [width, 2 * width, 4 * width]
        inputs = [channels, *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(*_convolution(c, w, 1 + (i > 0)), *_convolution(w, w, 1))
            for i, (c, w) in enumerate(zip(inputs, widths, strict=True))
        )
        self.label, self.rotation = nn.Linear(widths[-1], classes), nn.Linear(widths[-1], ROTATIONS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for stage in self.stages:
            x = stage(x)
        pooled = x.mean(dim=(2, 3))
        return self.label(pooled), self.rotation(pooled)


def _convolution(channels: int, width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(GROUPS, width), nn.SiLU()]


def save_own(net: OwnNetwork, folder: Path) -> None:
    """Write weights and settings into a folder."""
    save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / WEIGHTS)
    write_text(folder / CONFIG, json.dumps(net.settings, indent=2) + "\n")


def load_own(folder: Path, device: torch.device) -> FrozenNetwork | None:
    """The network of stage `trunk` with a level for each stage, or None if the stage trained none."""
    if not (folder / WEIGHTS).is_file():
        return None
    net = OwnNetwork(**json.loads((folder / CONFIG).read_text()))
    net.load_state_dict(load_file(folder / WEIGHTS))
    levels = [Level(f"stage{i}", stage) for i, stage in enumerate(net.stages)]
    return FrozenNetwork(net, OWN, lambda x: x, levels).to(device)
