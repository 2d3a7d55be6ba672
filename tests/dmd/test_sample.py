"""`python -m dmd.sample` reads labels as numbers or names, and writes a grid of images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dmd import sample
from dmd.sample import grid, read_labels
from dmd.teachers.teacher import Teacher
from tests.helpers.teachers.generators import generator_folder


def test_labels_are_read_as_numbers_or_names() -> None:
    classes = ("zero", "one", "two")
    assert read_labels("2, one,0", classes) == [2, 1, 0] and read_labels("", classes) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'3' is none of 0\.\.2 or zero, one, two"):
        read_labels("0,3", classes)
    with pytest.raises(ValueError, match="takes no labels"):
        read_labels("0", ())


def test_a_grid_has_a_column_per_label(teacher: Teacher, tmp_path: Path) -> None:
    generator = generator_folder(teacher, tmp_path / "generator")
    picture = torch.from_numpy(np.array(grid(generator, [3, 5, 8], 2, 4, 2)))
    images = generator.sampler().images(torch.tensor([3, 3, 5, 5, 8, 8]), torch.Generator().manual_seed(4))
    assert picture.shape == (2 * 8 * 2, 3 * 8 * 2)
    assert torch.equal(picture[16:32:2, 16:32:2], images[3, 0])  # row 2, column 2: the second image of label 5


def test_a_grid_is_generated_in_batches(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default there is an image of each condition, of which there may be thousands."""
    generator = generator_folder(teacher, tmp_path / "generator")
    whole = np.array(grid(generator, [3, 5, 8], 3, 4, 1))
    sizes: list[int] = []
    generator.denoiser.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    monkeypatch.setattr(sample, "BATCH", 4)
    parts = np.array(grid(generator, [3, 5, 8], 3, 4, 1))
    assert sizes == [4, 4, 1] and np.abs(whole.astype(int) - parts.astype(int)).max() <= 1
