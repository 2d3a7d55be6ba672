"""A teacher must fit the data, and one line describes it."""

from dataclasses import replace
from pathlib import Path

import pytest

from dmd.errors import TeacherError
from dmd.teachers.check import check_fits, describe
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.teachers.hub_folders import load


def test_a_teacher_of_another_shape_is_an_error(teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match=r"shape \(1, 8, 8\), but the data have \(3, 8, 8\); set data.channels"):
        check_fits(teacher, (3, 8, 8), 10)


def test_a_teacher_with_other_labels_than_the_data_is_an_error(teacher: Teacher, teacher_folder: Path) -> None:
    """The teacher's eleven labels are ten classes and the null label, or eleven classes without guidance."""
    for classes in (1, 9, 12, 100):
        with pytest.raises(
            TeacherError, match=f"has 11 labels with the null one, but the data have {classes}; labels of teacher"
        ):
            check_fits(teacher, (1, 8, 8), classes)
    with pytest.raises(TeacherError, match="conditioned on labels, but the data have only captions"):
        check_fits(teacher, (1, 8, 8), 0)
    guided = load_teacher(teacher_folder, CPU, guidance_scale=2.0)
    check_fits(teacher, (1, 8, 8), 11)
    check_fits(guided, (1, 8, 8), 10)
    with pytest.raises(TeacherError, match="guidance needs a null label beside them"):
        check_fits(guided, (1, 8, 8), 11)
    for classes in (0, 1, 10):
        check_fits(replace(teacher, conditions=0), (1, 8, 8), classes)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ddpm", "predicts epsilon, linear schedule of 1000 steps, unconditional, images 1x8x8"),
        ("dit", "predicts epsilon, linear schedule of 1000 steps, 11 labels with the null one, images 1x8x8"),
        ("sdxl", "predicts epsilon, scaled_linear schedule of 1000 steps, conditioned on captions, images 1x8x8"),
    ],
)
def test_a_line_describes_the_teacher(folders: dict[str, Path], kind: str, line: str) -> None:
    assert describe(load(folders[kind])).endswith(line)
