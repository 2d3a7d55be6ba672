"""Loads the networks of a pipeline folder."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dmd.config import Precision
from dmd.errors import TeacherError
from dmd.networks.half import halve
from dmd.storage.weights import empty_network, load_network

DIFFUSION = ("unet", "transformer")  # names of the part that is the diffusion network
LIBRARIES = ("diffusers", "transformers")  # those whose classes model_index.json may name


def load_networks(
    folder: Path, index: Mapping[str, object], precision: Precision = "fp32", only_encoders: bool = False
) -> dict[str, nn.Module]:
    """Load every network that the contents of a model_index.json name. Raises TeacherError as load_network does.

    precision: bf16 holds the weights of the diffusion network as `halve` does; the others are in float32.
    only_encoders: leave the diffusion network without memory; `precision` is then that of VAE and text encoders.
    """
    kinds = {name: kind for name, entry in index.items() if (kind := _network_class(entry)) is not None}
    load = _load_encoder if only_encoders else _load_part
    return {name: load(part_folder(folder, name), name, kind, precision) for name, kind in kinds.items()}


def _load_part(folder: Path, name: str, kind: type[nn.Module], precision: Precision) -> nn.Module:
    """Load a part to sample with: the diffusion network in the given type, all others in float32."""
    halves = precision == "bf16" and name in DIFFUSION
    return load_network(folder, kind, TeacherError, prepare=halve if halves else None)


def _load_encoder(folder: Path, name: str, kind: type[nn.Module], precision: Precision) -> nn.Module:
    """Load a part to encode with, in the given type; the diffusion network has no memory."""
    if name in DIFFUSION:
        return empty_network(folder, kind, TeacherError)
    if precision == "fp32":
        return load_network(folder, kind, TeacherError)
    if name == "vae":  # its statistics of latents stay in float32
        return load_network(folder, kind, TeacherError, prepare=halve)
    return load_network(folder, kind, TeacherError, torch.bfloat16)


def part_folder(folder: Path, name: str) -> Path:
    """Return the folder of a part; a pipeline of a single network, such as google/ddpm-cifar10-32, may have none."""
    return folder / name if (folder / name).is_dir() else folder


def _network_class(entry: object) -> type[nn.Module] | None:
    """The class of a part by its entry in model_index.json; None if it is no network of diffusers or transformers."""
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] in LIBRARIES):
        return None
    kind = getattr(importlib.import_module(entry[0]), str(entry[1]), None)
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "from_pretrained")
    return kind if is_network else None
