"""Describes the network of an edm checkpoint, and writes it as a teacher folder."""

import json
from pathlib import Path

from safetensors.torch import save_file

from dmd.diffusion.pipelines import save_pipeline
from dmd.edm.networks import CONVERTS, diffusers_network
from dmd.edm.pickles import Inert
from dmd.storage.files import new_folder, write_text


def describe(network: Inert) -> str:
    """The classes, constructor arguments and tensors of a network, one per line."""
    inner = (network.state.get("_modules") or {}).get("model")
    lines = []
    for module in (m for m in (network, inner) if isinstance(m, Inert)):
        lines.append(f"{module.class_name}({', '.join(f'{k}={v!r}' for k, v in module.arguments().items())})")
    tensors = network.tensors()
    lines += [
        f"  {name} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for name, value in tensors.items()
    ]
    return "\n".join([*lines, f"{sum(v.numel() for v in tensors.values()):,} numbers in {len(tensors)} tensors"])


def save(network: Inert, out: Path) -> str:
    """Write a diffusers pipeline if there is one for the network, otherwise weights and arguments. Returns one line."""
    inner = (network.state.get("_modules") or {}).get("model")
    with new_folder(out) as folder:
        if isinstance(inner, Inert) and inner.class_name == CONVERTS:
            save_pipeline(*diffusers_network(network), folder)
            return f"{out} is a teacher: teacher.source: folder, teacher.folder: {out}"
        about = {"class_name": network.class_name, "arguments": network.arguments()}
        save_file({k: v.contiguous().clone() for k, v in network.tensors().items()}, folder / "weights.safetensors")
        write_text(folder / "network.json", json.dumps(about, indent=2, default=str) + "\n")
    return f"{out} holds only the weights: diffusers has no such network; only {CONVERTS} can be converted to a teacher"
