"""Deterministic teacher pairs (z, x) for the warm start and the regression loss: noise and the teacher's image."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from dmd.config import PairsConfig
from dmd.progress import Progress
from dmd.samplers.sampler import draw_noise
from dmd.samplers.solvers import SOLVERS
from dmd.storage.files import new_folder, write_bytes, write_text
from dmd.storage.finite import check_finite
from dmd.storage.seal import is_usable, write_seal
from dmd.teachers.teacher import Teacher

ANOTHER = "set pairs.steps or pairs.solver to another value, or use another teacher"


@dataclass(frozen=True)
class Pairs:
    """Noise z and images x, [N, C, H, W] float32 on the network's scale; labels [N], None without conditions."""

    z: Tensor
    x: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.z)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Pairs":
        """Return a copy on another device; labels keep their type."""
        labels = None if self.labels is None else self.labels.to(device)
        return Pairs(self.z.to(device, dtype), self.x.to(device, dtype), labels)


@torch.inference_mode()
def make_pairs(
    teacher: Teacher, labels: Tensor | None, cfg: PairsConfig, device: torch.device, work: Path | None = None
) -> Pairs:
    """Sample cfg.count pairs by cfg.solver in cfg.steps steps.

    labels [M]: used cyclically; None for no labels. work: a folder that keeps each
    finished batch, so that a killed run continues after it. Raises TeacherError if the teacher's schedule is too short,
    and NumberError for an image with NaN or infinite values.
    """
    if cfg.count:
        teacher.check_steps("pairs.steps", cfg.steps)
    solve = SOLVERS[cfg.solver].solve
    rng = torch.Generator().manual_seed(cfg.seed)
    if labels is not None:
        labels = labels[torch.arange(cfg.count) % len(labels)] if teacher.conditions else None
    z = draw_noise(teacher.shape, cfg.count, rng)
    x = torch.empty_like(z)
    with Progress("pairs", cfg.count, "pairs") as progress:
        for start in range(0, cfg.count, cfg.batch_size):
            part = slice(start, start + cfg.batch_size)
            file = None if work is None else work / f"{start:09d}.safetensors"
            if file is not None and is_usable(file):
                x[part] = load_file(file)["x"]
            else:
                cond = None if labels is None else labels[part].to(device)
                x[part] = solve(teacher.guided, z[part].to(device), cfg.steps, cond).cpu()
                check_finite(x[part], f"the teacher's image of {cfg.solver} in {cfg.steps} steps", ANOTHER)
                if file is not None:
                    write_bytes(file, save({"x": x[part]}))
                    write_seal(file)
            progress.update(len(x[part]))
    return Pairs(z, x, labels)


def save_pairs(pairs: Pairs, out: Path) -> None:
    """Write a store of pairs, which may be empty."""
    tensors = {"z": pairs.z, "x": pairs.x} | ({} if pairs.labels is None else {"labels": pairs.labels})
    with new_folder(out) as folder:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "pairs.safetensors")
        write_text(folder / "manifest.json", json.dumps({"count": len(pairs)}, indent=2) + "\n")


def load_pairs(folder: Path) -> Pairs:
    """Read the store that `save_pairs` wrote. Raises NumberError if it holds NaN or infinite values."""
    tensors = load_file(folder / "pairs.safetensors")
    for name in ("z", "x"):
        check_finite(tensors[name], f"{folder / 'pairs.safetensors'}: {name}", "run the pairs stage again")
    return Pairs(tensors["z"], tensors["x"], tensors.get("labels"))
