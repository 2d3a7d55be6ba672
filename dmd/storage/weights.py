"""Loads a network of diffusers or transformers, and checks that its files hold the weights that its config describes.

The libraries initialise a missing weight at random, ignore a surplus one and convert integers, with a warning at most.
"""

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dmd.errors import UserError
from dmd.storage.faults import refuse
from dmd.storage.finite import find_infinite_weight
from dmd.yaml_files import load_object


def load_network(
    folder: Path,
    kind: Any,
    error: type[UserError],
    dtype: torch.dtype = torch.float32,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Any:
    """Load a network of class `kind` from its folder, in type `dtype` whatever the stored type.

    prepare: gives the weights of a network of diffusers types of their own before they are read, in place of `dtype`,
    so that no weight is ever in memory in another type.

    Raises `error` if it cannot be built from its config, or if a weight is missing, surplus, of another shape, an
    integer, NaN or infinite.
    """
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise error(f"{folder} holds no weights in safetensors; save the network with safe_serialization=True")
    if all("." in file.stem for file in files):  # such as model.fp16.safetensors
        raise error(f"{folder} holds only a variant, {files[0].name}; rename its files without the variant")
    with quiet(kind), refuse(f"{folder} could not be loaded", "correct its config.json or replace its weights", error):
        _check_layers(folder, files, error)
        net, info = (kind if prepare is None else _prepared(kind, prepare)).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype if prepare is None else None,  # diffusers then keeps the types that the empty network has
            ignore_mismatched_sizes=True,  # transformers then lists them below; diffusers names them in its error
            output_loading_info=True,
        )
    if fault := _find_fault(folder, net, info) or find_bad_weight(folder, net):
        raise error(f"{fault}; replace the weights, or correct {folder / 'config.json'}")
    return net


def empty_network(folder: Path, kind: Any, error: type[UserError]) -> Any:
    """Build a network of class `kind` of diffusers by the config in its folder, without memory for its weights.

    Raises `error` if it cannot be built.
    """
    from accelerate import init_empty_weights  # it takes seconds

    _check_layers(folder, list(folder.glob("*.safetensors")), error)
    with quiet(kind), refuse(f"{folder} could not be loaded", "correct its config.json", error), init_empty_weights():
        return kind.from_config(kind.load_config(folder, local_files_only=True)).eval()


def _prepared(kind: Any, prepare: Callable[[nn.Module], None]) -> Any:
    """Return a class that loads networks of class `kind` of diffusers, each prepared while its weights are empty."""

    class Prepared(kind):
        @classmethod
        def from_config(cls, *args: Any, **options: Any) -> Any:
            net = kind.from_config(*args, **options)
            prepare(net)
            return net

    Prepared.__name__ = kind.__name__  # diffusers looks up the names of its former classes
    return Prepared


LAYERS = re.compile(r"^n(um)?_(.*_)?layers$|layers_per_block$")  # keys that say how many layers there are


def _check_layers(folder: Path, files: list[Path], error: type[UserError]) -> None:
    """Raise `error` if config.json asks for more layers than there are weights: a million take hours to build."""
    count = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            count += len(tensors.keys())
    file = folder / "config.json"
    for key, number in _list_numbers(load_object(file, error)):
        if LAYERS.search(key) and number > count:
            raise error(f"{file}: {key}: {number} layers, but the files hold only {count} weights")


def _list_numbers(content: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield each integer in the content of a JSON file with the last key that leads to it."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _list_numbers(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _list_numbers(value, key)
    elif isinstance(content, int):
        yield key, content


def _find_fault(folder: Path, net: nn.Module, info: Mapping[str, Any]) -> str:
    """Describe the first key that the files lack, have beyond the config, or hold in another shape; empty if none."""
    for kind, words in (
        ("missing_keys", "has no weight"),
        ("mismatched_keys", "has another shape than config.json asks for in"),
        ("unexpected_keys", "has a weight that config.json does not ask for,"),
    ):
        names = sorted(key if isinstance(key, str) else key[0] for key in info[kind])
        if names := [name for name in names if not _is_counter(name, net)]:
            return f"{_find_file(folder, names[0])} {words} {names[0]}" + f" ({len(names)} in all)" * (len(names) > 1)
    return ""


def find_bad_weight(folder: Path, net: nn.Module) -> str:
    """Describe the first weight of a loaded network that is stored as integers, NaN or infinite; empty if none."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not a dict
                kind = tensors.get_slice(name).get_dtype()
                if not kind.startswith(("F", "BF")) and not _is_counter(name, net):
                    return f"{file} holds integers for {name}"
    if name := find_infinite_weight(net):
        return f"{_find_file(folder, name)} holds NaN or infinite values in {name} (as float32)"
    return ""


def _is_counter(name: str, net: nn.Module) -> bool:
    """Whether a network has a buffer of integers of this name, such as CLIP's position_ids, which older files hold."""
    buffers = net.named_buffers()
    return name.rpartition(".")[2] in {n.rpartition(".")[2] for n, b in buffers if not b.is_floating_point()}


def _find_file(folder: Path, weight: str) -> Path:
    """Return the safetensors file of a folder that holds a weight, or the only file; the folder if there are others."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            if weight in tensors.keys():  # noqa: SIM118 - safe_open is not a dict
                return file
    return files[0] if len(files) == 1 else folder


@contextlib.contextmanager
def quiet(kind: Any) -> Iterator[None]:
    """Suppress what the library of class `kind` reports on weights, and its progress bar; the checks here report."""
    log = importlib.import_module(f"{kind.__module__.partition('.')[0]}.utils.logging")
    level, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if has_bar:
            log.enable_progress_bar()
