"""The picture of a run: held-out images, teacher and student, the same labels side by side."""

import torch
from torch import Tensor

from dmd.data import Split
from dmd.optim import step_rng
from dmd.sampling import Sampler
from evaluation.judge import Judge
from evaluation.neighbours import nearest
from evaluation.pictures import comparison
from evaluation.reference import EVALUATOR

POOL = 50  # images of each class among which the nearest are looked for


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


def nearest_sheet(judge: Judge, train: Split, student: Sampler) -> bytes:
    """PNG bytes: of each class the student's images that lie nearest to a training image, and those beside them."""
    ref = judge.reference
    per_class = len(ref.picture_labels) // len(train.class_names)
    labels = torch.arange(len(train.class_names)).repeat_interleave(POOL)
    images = student.images(labels, step_rng(ref.picture_seed, 1))
    features = judge.panel.extractors[EVALUATOR](images)
    distances, index = nearest(features, ref.features[EVALUATOR])
    order = distances.reshape(-1, POOL).argsort(dim=1)[:, :per_class]
    chosen = (order + torch.arange(len(train.class_names))[:, None] * POOL).flatten()
    panels = {"student": images[chosen], "nearest training image": train.images[index[chosen]]}
    return comparison({name: cells.numpy() for name, cells in panels.items()}, list(train.class_names), per_class)


def real_cells(real: Split, per_class: int) -> Tensor:
    """The first images of each class, class by class; repeated where there are too few, blank where there are none."""
    rows = []
    for label in range(len(real.class_names)):
        index = (real.labels == label).nonzero()[:, 0]
        blank = torch.full((per_class, *real.shape), 255, dtype=torch.uint8)
        rows.append(real.images[index[torch.arange(per_class) % len(index)]] if len(index) else blank)
    return torch.cat(rows)
