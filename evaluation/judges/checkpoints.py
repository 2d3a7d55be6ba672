"""Reads checkpoints that are no transformers folder: a dict of tensors, in safetensors or in the format of torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dmd.errors import EvaluatorError
from dmd.storage.finite import find_infinite_weight

Weights = dict[str, Tensor]


def read_weights(file: Path) -> Weights:
    """Weights of a file in float32; of a checkpoint with more in it, those under `state_dict`.

    A file that is not safetensors is a pickle: torch reads it without running code of it. Raises EvaluatorError if it
    holds something else.
    """
    if file.suffix == ".safetensors":
        content: Any = load_file(file)
    else:
        content = torch.load(file, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not (isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise EvaluatorError("it holds no dict of weights")
    return {name: v.float() if v.is_floating_point() else v for name, v in content.items()}


def take(weights: Weights, name: str) -> Tensor:
    """A weight by its name. Raises EvaluatorError if it is missing."""
    if name not in weights:
        raise EvaluatorError(f"it has no weight {name}")
    return weights[name]


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Number of layers with names PREFIX.N.REST."""
    return len({name.removeprefix(f"{prefix}.").partition(".")[0] for name in names if name.startswith(f"{prefix}.")})


def fill(net: nn.Module, weights: Weights) -> None:
    """Give a network its weights.

    Raises EvaluatorError if one is missing, surplus, of another shape, NaN or infinite.
    """
    own = {name: value.shape for name, value in net.state_dict().items()}
    for kind, names in (("no", own.keys() - weights.keys()), ("an unknown", weights.keys() - own.keys())):
        if names:
            raise EvaluatorError(f"it has {kind} weight {min(names)}")
    for name, shape in own.items():
        if weights[name].shape != shape:
            raise EvaluatorError(f"{name} has shape {list(weights[name].shape)}, not {list(shape)}")
    net.load_state_dict(weights)
    if name := find_infinite_weight(net):
        raise EvaluatorError(f"{name} has NaN or infinite values")
