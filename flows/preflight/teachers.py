"""Tries teachers in folders before a run, whose stage `teacher` waits for the data to be prepared.

The stage tries them once more, with images, classes and captions of the data.
"""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dmd.config import Params
from flows.preflight.run import Run

MOST_BYTES = 2 * 2**30  # of a folder; to load a larger one twice would cost more than an early message saves


def check_teachers(run: Run) -> Iterator[str]:
    """Load each teacher in a folder and run it on two images. Raises TeacherError for the first that fails."""
    if "teacher" not in run.stages:
        return
    for params in _list_distinct(run):
        if _size(run.root / params.teacher.folder) <= MOST_BYTES:
            _try(params, run.root / params.teacher.folder)
    yield from ()


def check_guidance(run: Run) -> Iterator[str]:
    """Yield a line if method `decoupled` is to take apart the guidance of a teacher that has it as an input.

    A teacher whose configuration is not here yet is checked when stage `train` begins.
    """
    those = [p for p in run.params if "decoupled" in (p.method.name, p.method.then.name)]
    if "train" not in run.stages or not those:
        return
    from dmd.distillation.methods.decoupled import GUIDED_BY_INPUT  # these take seconds
    from flows.plan.network_config import Unknown, is_guided_by_input, teacher_configs

    for params in those:
        with suppress(Unknown):
            if is_guided_by_input(teacher_configs(params, run.root, run.preset)):
                yield GUIDED_BY_INPUT
                return


def _list_distinct(run: Run) -> list[Params]:
    """The parameters whose teachers are in folders: those of the first variant for each teacher and kind of images."""
    first: dict[tuple[object, ...], Params] = {}
    for p in run.params:
        if p.teacher.source == "folder":
            first.setdefault((p.teacher.folder, p.data.channels, p.data.size, p.runtime.device), p)
    return list(first.values())


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _try(params: Params, folder: Path) -> None:
    import torch  # these take seconds
    from safetensors.torch import save_file

    from dmd.data.shards import Images, Shard
    from dmd.device import choose_device
    from dmd.teachers.check import check_fits
    from dmd.teachers.fetch import open_teacher
    from dmd.teachers.probe import probe

    torch.set_num_threads(params.runtime.threads)
    device, shape = choose_device(params.runtime.device), (params.data.channels, params.data.size, params.data.size)
    caption = params.data.caption.format(name="picture")
    teacher = open_teacher(folder, shape, [caption], device)
    check_fits(teacher, shape, max(teacher.conditions - 1, 1))  # the classes of the data are not known yet
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "images.safetensors"
        save_file({"images": torch.randint(256, (2, *shape), dtype=torch.uint8)}, file)
        probe(teacher, folder, Images([Shard.find(file, "images")]), device)
