"""Loads the networks of a pipeline folder."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from dmd.errors import TeacherError
from dmd.storage.weights import load_network

LIBRARIES = ("diffusers", "transformers")  # those whose classes model_index.json may name


def load_networks(folder: Path, index: Mapping[str, object]) -> dict[str, nn.Module]:
    """Load every network that the contents of a model_index.json name. Raises TeacherError as load_network does."""
    kinds = {name: kind for name, entry in index.items() if (kind := _network_class(entry)) is not None}
    return {name: load_network(part_folder(folder, name), kind, TeacherError) for name, kind in kinds.items()}


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
