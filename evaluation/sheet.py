"""The picture of a run: held-out images, teacher and student, the same labels side by side."""

import torch
from torch import Tensor

from dmd.data import Split
from dmd.sampling import Sampler
from evaluation.judge import Judge
from evaluation.pictures import comparison


def comparison_sheet(judge: Judge, real: Split, teacher: Tensor, student: Sampler) -> bytes:
    """PNG bytes. teacher [N, C, H, W] holds the cells of the reference's picture labels, made from the same noise."""
    labels = judge.reference.picture_labels
    per_class = len(labels) // len(real.class_names)
    panels = {
        "real, held out": real_cells(real, per_class),
        "teacher": teacher,
        "student, one step": judge.pictures(student),
    }
    return comparison({name: images.numpy() for name, images in panels.items()}, list(real.class_names), per_class)


def real_cells(real: Split, per_class: int) -> Tensor:
    """The first images of each class, class by class; repeated where there are too few, blank where there are none."""
    rows = []
    for label in range(len(real.class_names)):
        index = (real.labels == label).nonzero()[:, 0]
        blank = real.images.new_full((per_class, *real.shape), 255)
        rows.append(real.images[index[torch.arange(per_class) % len(index)]] if len(index) else blank)
    return torch.cat(rows)
