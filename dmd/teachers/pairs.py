"""Deterministic teacher pairs (z, x) for the regression loss: the teacher's ODE from noise to image."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from dmd.config import PairsConfig
from dmd.progress import Progress
from dmd.samplers.ddim import ddim
from dmd.samplers.heun import heun
from dmd.samplers.sampler import draw_noise
from dmd.storage.files import new_folder, write_bytes, write_text
from dmd.teachers.teacher import Teacher


@dataclass(frozen=True)
class Pairs:
    """z and x [N, C, H, W] float32 on the network's scale, labels [N] or None."""

    z: Tensor
    x: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.z)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Pairs":
        labels = None if self.labels is None else self.labels.to(device)
        return Pairs(self.z.to(device, dtype), self.x.to(device, dtype), labels)


@torch.inference_mode()
def make_pairs(
    teacher: Teacher, labels: Tensor | None, cfg: PairsConfig, device: torch.device, work: Path | None = None
) -> Pairs:
    """cfg.count pairs by cfg.solver in cfg.steps steps; labels [M] are gone through in turn, None for no labels.

    work: a folder that keeps each batch when it is made; what it holds already is not made again.
    """
    solve = {"ddim": ddim, "heun": heun}[cfg.solver]
    rng = torch.Generator().manual_seed(cfg.seed)
    given = None if labels is None or not teacher.classes else labels[torch.arange(cfg.count) % len(labels)]
    z = draw_noise(teacher.shape, cfg.count, rng)
    x = torch.empty_like(z)
    with Progress("pairs", cfg.count, "pairs") as progress:
        for start in range(0, cfg.count, cfg.batch_size):
            part = slice(start, start + cfg.batch_size)
            cond = None if given is None else given[part].to(device)
            kept = None if work is None else work / f"{start:09d}.safetensors"
            if kept is not None and kept.exists():
                x[part] = load_file(kept)["x"]
            else:
                x[part] = solve(teacher.guided, z[part].to(device), cfg.steps, cond).cpu()
                if kept is not None:
                    write_bytes(kept, save({"x": x[part]}))
            progress.update(len(x[part]))
    return Pairs(z, x, given)


def save_pairs(pairs: Pairs, out: Path) -> None:
    """Write the store; one with no pairs is valid too."""
    tensors = {"z": pairs.z, "x": pairs.x} | ({} if pairs.labels is None else {"labels": pairs.labels})
    with new_folder(out) as folder:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "pairs.safetensors")
        write_text(folder / "manifest.json", json.dumps({"count": len(pairs)}, indent=2) + "\n")


def load_pairs(folder: Path) -> Pairs:
    """Read the store that `save_pairs` wrote."""
    tensors = load_file(folder / "pairs.safetensors")
    return Pairs(tensors["z"], tensors["x"], tensors.get("labels"))
