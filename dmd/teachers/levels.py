"""Noise levels between those of a teacher's scheduler, for a network that was trained at continuous times."""

from pathlib import Path

from dmd.diffusion.process import Process, process_of
from dmd.families.pipelines import find_family
from dmd.teachers.teacher import Teacher


def set_levels(teacher: Teacher, count: int) -> None:
    """Divide the times of a teacher into `count` levels, in place; networks that are copied from it have them, too.

    Raises ValueError for a schedule of fixed levels, as eps- and v-prediction have it.
    """
    process = _process(teacher, count).to(teacher.denoiser.process.alpha_grid.device)
    for denoiser in (teacher.denoiser, teacher.guided):
        denoiser.process = process


def own_levels(teacher: Teacher) -> int:
    """Return the number of levels of the teacher's scheduler."""
    return _process(teacher, None).timesteps


def _process(teacher: Teacher, count: int | None) -> Process:
    pipe = teacher.pipeline
    family = find_family(pipe, Path(pipe.name_or_path or ""))
    return process_of(pipe.scheduler, family.flow_mu(pipe, teacher.shape), count)
