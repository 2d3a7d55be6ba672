"""Checks the weights of a network that was read from files: they are floating-point numbers, and finite."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


def find_infinite(net: nn.Module) -> str:
    """Return the name of the first weight that has NaN or infinite values; empty if there is none."""
    weights = ((name, value) for name, value in net.state_dict().items() if value.is_floating_point())
    return next((name for name, value in weights if not torch.isfinite(value).all()), "")


def find_integer(folder: Path, net: nn.Module) -> str:
    """Return the name of the first tensor in a folder's safetensors files that holds integers for a weight of `net`.

    Buffers of integers, such as CLIP's position_ids, may be integers. Empty if there is no such tensor.
    """
    counters = {name.rpartition(".")[2] for name, buffer in net.named_buffers() if not buffer.is_floating_point()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not a dict
                kind = tensors.get_slice(name).get_dtype()
                if not kind.startswith(("F", "BF")) and name.rpartition(".")[2] not in counters:
                    return name
    return ""


def find_file(folder: Path, weight: str) -> Path:
    """Return the safetensors file of a folder that holds a weight, or the only file; the folder if there are others."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            if weight in tensors.keys():  # noqa: SIM118 - safe_open is not a dict
                return file
    return files[0] if len(files) == 1 else folder
