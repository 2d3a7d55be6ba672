"""The frozen networks of images that a run reads, without the memory of their weights."""

from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from dmd.config import Params
from dmd.distillation.methods import frozen_networks
from dmd.errors import UserError
from dmd.features.frozen import FrozenNetwork, Level
from dmd.features.load import NetworkName, load_frozen
from dmd.features.own import OWN, OwnNetwork


def blank_trunks(params: Params, classes: int) -> dict[str, FrozenNetwork]:
    """The frozen networks that the methods name, on the meta device; those whose weights are not here are left out.

    classes: number of classes of the data. Nothing is downloaded.
    """
    side = None if params.method.gan.trunk_side == "auto" else params.method.gan.trunk_side
    names = frozen_networks(params.method)
    found = {name: _own(params, classes) if name == OWN else _load(name, side) for name in names}
    return {name: net.to("meta") for name, net in found.items() if net is not None}


def missing_trunks(params: Params, classes: int) -> list[str]:
    """Names of the frozen networks that `blank_trunks` leaves out."""
    return sorted(set(frozen_networks(params.method)) - set(blank_trunks(params, classes)))


def _own(params: Params, classes: int) -> FrozenNetwork:
    """The network that stage `trunk` trains."""
    net = OwnNetwork(params.data.channels, params.trunk.width, max(classes, 1))
    return FrozenNetwork(net, OWN, lambda x: x, [Level(f"stage{i}", stage) for i, stage in enumerate(net.stages)])


def _load(text: str, side: int | None) -> FrozenNetwork | None:
    """The network of a name, or None if its weights are not on this machine."""
    name = NetworkName.parse(text)
    if name.on_hub and not _is_cached(name.weights):
        return None
    try:
        return load_frozen(text, torch.device("cpu"), side)
    except UserError:
        return None


def _is_cached(weights: str) -> bool:
    hub_id, _, revision = weights.partition("@")
    file = try_to_load_from_cache(hub_id, "model.safetensors", revision=revision or "main")
    return isinstance(file, str) and Path(file).exists()
