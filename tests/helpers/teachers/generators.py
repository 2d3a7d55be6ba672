"""A generator exported from a teacher."""

from pathlib import Path

import torch

from dmd.data.splits import DIGIT_NAMES
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher


def generator_folder(teacher: Teacher, out: Path, *times: int) -> Generator:
    """Export a perturbed copy of the teacher as a generator. times: its timesteps, 999 by default."""
    denoiser = teacher.denoiser.copy().eval()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    generator = Generator(denoiser.requires_grad_(False), times or (999,), teacher.shape, DIGIT_NAMES)
    export_generator(generator, teacher, out)
    return generator
