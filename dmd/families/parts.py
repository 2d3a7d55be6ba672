"""Loads the networks of a pipeline folder, and checks that their files hold the weights that their configs describe.

The libraries initialise a missing weight at random, ignore a surplus one and convert integers, with a warning at most.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from torch import nn

from dmd.errors import TeacherError
from dmd.families.faults import refuse
from dmd.storage.weights import find_file, find_infinite, find_integer

LIBRARIES = ("diffusers", "transformers")  # those whose classes model_index.json may name


def load_networks(folder: Path, index: Mapping[str, object]) -> dict[str, nn.Module]:
    """Load every network that the contents of a model_index.json name, in float32 whatever the stored type.

    Raises TeacherError if a network cannot be built from its config, or if a weight is missing, surplus, of another
    shape, an integer, NaN or infinite.
    """
    kinds = {name: kind for name, entry in index.items() if (kind := _network_class(entry)) is not None}
    return {name: load_network(part_folder(folder, name), kind) for name, kind in kinds.items()}


def part_folder(folder: Path, name: str) -> Path:
    """Return the folder of a part; a pipeline of a single network, such as google/ddpm-cifar10-32, may have none."""
    return folder / name if (folder / name).is_dir() else folder


def load_network(folder: Path, kind: Any) -> nn.Module:
    """Load a network of class `kind` from its folder in float32. Raises TeacherError as load_networks does."""
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise TeacherError(f"{folder} holds no weights in safetensors; save the network with safe_serialization=True")
    if all("." in file.stem for file in files):  # such as model.fp16.safetensors
        raise TeacherError(f"{folder} holds only a variant, {files[0].name}; rename its files without the variant")
    with quiet(), refuse(f"{folder} could not be loaded", "correct its config.json or replace its weights"):
        net, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # transformers then lists them below; diffusers names them in its error
            output_loading_info=True,
        )
    if fault := _find_fault(folder, net, info):
        raise TeacherError(f"{fault}; replace the weights, or correct {folder / 'config.json'}")
    return net


def _find_fault(folder: Path, net: nn.Module, info: Mapping[str, Any]) -> str:
    """Describe the first weight that is wrong, with the file that holds it; empty if there is none."""
    for kind, words in (
        ("missing_keys", "has no weight"),
        ("mismatched_keys", "has another shape than config.json asks for in"),
        ("unexpected_keys", "has a weight that config.json does not ask for,"),
    ):
        if names := sorted(key if isinstance(key, str) else key[0] for key in info[kind]):
            return f"{find_file(folder, names[0])} {words} {names[0]}" + (f" ({len(names)} in all)" * (len(names) > 1))
    if name := find_integer(folder, net):
        return f"{find_file(folder, name)} holds integers for {name}"
    if name := find_infinite(net):
        return f"{find_file(folder, name)} holds NaN or infinite values in {name} (as float32)"
    return ""


def _network_class(entry: object) -> type[nn.Module] | None:
    """The class of a part by its entry in model_index.json; None if it is no network of diffusers or transformers."""
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] in LIBRARIES):
        return None
    kind = getattr(importlib.import_module(entry[0]), str(entry[1]), None)
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "from_pretrained")
    return kind if is_network else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the libraries' reports on weights and their progress bars, since the checks here report the weights."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
