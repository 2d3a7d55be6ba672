"""Read a finished generator back: the Denoiser, the timestep it is conditioned at, and its classes."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmd.denoisers import Cond, Denoiser
from dmd.errors import TeacherError
from dmd.sampling import Sampler, one_step
from dmd.teachers import load_teacher


@dataclass(frozen=True)
class Generator:
    """Makes an image in one network pass."""

    denoiser: Denoiser
    timestep: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]

    def sampler(self) -> Sampler:
        """One network pass from unit noise to x."""
        device = next(self.denoiser.parameters()).device
        return Sampler("student", 1, self.shape, bool(self.classes), device, self._make)

    def _make(self, z: Tensor, cond: Cond) -> Tensor:
        return one_step(self.denoiser, z, self.timestep, cond)


def load_generator(folder: Path, device: torch.device) -> Generator:
    """Read the folder that `export_generator` wrote. Raises TeacherError where it cannot be read."""
    try:
        about = json.loads((folder / "generator.json").read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise TeacherError(f"{folder} is not a generator folder: generator.json cannot be read ({e})") from None
    net = load_teacher(folder, device)
    return Generator(net.denoiser, about["timestep"], net.shape, tuple(about["classes"]))
