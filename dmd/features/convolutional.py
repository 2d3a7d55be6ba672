"""Networks of torchvision and timm as frozen networks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmd.features.frozen import FrozenNetwork, Level, resolution_levels
from dmd.features.preparation import Preparation


def torchvision_trunk(name: str, file: Path, side: int | None = None) -> FrozenNetwork:
    """The torchvision network `name` from a state dict, with a level at each resolution, such as torchvision's vgg16.

    Raises ValueError if torchvision has no network of that name.
    """
    from torchvision.models import get_model, get_model_weights, list_models  # imported only when used: it takes long

    if name not in list_models():
        raise ValueError(f"torchvision has no network {name!r}")
    net = get_model(name, weights=None)
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    preset: Any = next(iter(get_model_weights(name))).transforms()
    prepare = Preparation(side or preset.crop_size[0], tuple(preset.mean), tuple(preset.std))
    levels = resolution_levels(_stages(net.eval()), net, torch.zeros(1, 3, prepare.side, prepare.side))
    return FrozenNetwork(net, name, prepare, levels)


def _stages(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers at the top of a network; those of `features` if they are in one sequence, as in VGG."""
    for name, child in net.named_children():
        if name == "features" and isinstance(child, nn.Sequential):
            yield from ((f"features.{inner}", module) for inner, module in child.named_children())
        else:
            yield name, child


def timm_trunk(folder: Path, side: int | None = None) -> FrozenNetwork:
    """A timm network from a folder in the hub's format, with the levels that timm itself names."""
    import timm  # imported only when used: it takes long

    if not (folder / "model.safetensors").is_file():
        raise ValueError("it has no model.safetensors")
    net: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    own = net.pretrained_cfg
    if own.get("fixed_input_size") and side not in (None, own["input_size"][-1]):
        raise ValueError(f"it takes images of {own['input_size'][-1]} pixels alone")
    prepare = Preparation(side or own["input_size"][-1], tuple(own["mean"]), tuple(own["std"]))
    return _WithOwnLevels(
        net, own["architecture"], prepare, [Level(name, net) for name in net.feature_info.module_name()]
    )


class _WithOwnLevels(FrozenNetwork):
    """A network of timm, which returns the activations of its levels by itself."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.run(self.prepare(x)))
