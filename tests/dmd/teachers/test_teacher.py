"""A teacher loads with guidance; damaged files and other folders are errors."""

import shutil
from pathlib import Path

import pytest
import torch

from dmd.diffusion.denoiser import Guided
from dmd.errors import TeacherError
from dmd.generator.generator import load_generator
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU


def test_guidance_uses_the_last_label_as_the_null_label(teacher_folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(teacher_folder, CPU, guidance_scale=2.0)
    z, y, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([600, 600])
    u, c = teacher.denoiser(z, t, torch.full_like(y, 10)), teacher.denoiser(z, t, y)
    torch.testing.assert_close(teacher.guided(z, t, y), u + 2 * (c - u), rtol=1e-4, atol=1e-4)
    assert not isinstance(teacher.denoiser, Guided) and isinstance(teacher.guided, Guided)
    plain = load_teacher(teacher_folder, CPU)
    assert plain.guided is plain.denoiser


def damage(folder: Path, tmp_path: Path, file: str, content: bytes | None) -> Path:
    """A copy of a folder in which a file is truncated, or replaced by `content`."""
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    if content is None:
        (copy / file).write_bytes((copy / file).read_bytes()[:5000])
    else:
        (copy / file).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.safetensors", b""),
        ("unet/config.json", b"{"),
        ("model_index.json", b"not json"),
    ],
)
def test_a_damaged_teacher_is_an_error_that_names_it(
    teacher_folder: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = damage(teacher_folder, tmp_path, file, content)
    with pytest.raises(TeacherError) as e:
        load_teacher(folder, CPU)
    assert str(folder) in str(e.value) and "\n" not in str(e.value)


def test_other_folders_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"not a diffusers pipeline folder: it has no model_index\.json"):
        load_teacher(tmp_path, CPU)
    with pytest.raises(TeacherError, match=r"is not a generator folder"):
        load_generator(tmp_path, CPU)
