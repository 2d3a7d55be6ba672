"""Nothing in an evaluation takes all images at once: the largest batch and the memory do not grow with their number."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES
from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from dmd.storage.checkpoint import Scratch
from evaluation.evaluator.reference import MAX_PIXELS, choose_picture_labels
from evaluation.features.store import ImageBuffer
from evaluation.metrics import pairwise
from evaluation.metrics.pairwise import find_nearest, mean_pairwise_distance, pairs_between, pairs_within
from evaluation.metrics.reference import hash_tensors
from evaluation.models.classifier import ROWS, Classifier, train_classifier
from evaluation.report import sheet
from evaluation.report.sheet import draw_pictures
from evaluation.statistics.frechet import Gaussian
from evaluation.timing.latency import time_samplers
from tests.helpers.networks import CPU


def test_the_matrix_of_pairs_is_in_memory_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more columns, a block has fewer rows; the results do not depend on the size of the blocks."""
    x, y = torch.randn(70, 4), torch.randn(90, 4)
    whole = pairs_between(x, y, pairs_within(y, 3), 3)[0][0]
    nearest, mean = find_nearest(x, y)[0], mean_pairwise_distance(y)
    monkeypatch.setattr(pairwise, "BLOCK", 90 * 8)
    sizes = [len(distances) for _, distances, _ in pairwise._blocks(x, y)]
    assert sizes == [8] * 8 + [6]
    blocks = pairs_between(x, y, pairs_within(y, 3), 3)[0][0]
    assert blocks.squared_mmd("cubic") == pytest.approx(whole.squared_mmd("cubic"), rel=1e-9)
    assert torch.equal(blocks.is_inside_x, whole.is_inside_x) and torch.equal(blocks.is_inside_y, whole.is_inside_y)
    torch.testing.assert_close(find_nearest(x, y)[0], nearest)
    assert mean_pairwise_distance(y) == pytest.approx(mean, rel=1e-9)


class CountedDoubles(torch.Tensor):
    """A tensor that records the number of rows of each copy in float64."""

    rows: list[int] = []  # noqa: RUF012 - shared by the parts of a tensor

    def double(self, *args: Any, **kwargs: Any) -> Tensor:
        CountedDoubles.rows.append(len(self))
        return self.as_subclass(torch.Tensor).double()


def test_a_gaussian_is_fitted_without_a_copy_of_all_features() -> None:
    x = torch.randn(10_000, 3)
    CountedDoubles.rows.clear()
    fitted = Gaussian.fit(x.as_subclass(CountedDoubles))
    assert max(CountedDoubles.rows) <= 4096 and sum(CountedDoubles.rows) == 2 * len(x)
    torch.testing.assert_close(fitted.mean, x.double().mean(dim=0))
    torch.testing.assert_close(fitted.cov, torch.cov(x.double().T))


def test_features_are_hashed_without_a_copy() -> None:
    features = {"a": torch.zeros(2**18, 16)}  # 16 MiB
    tracemalloc.start()
    hash_tensors(features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_buffer_of_images_takes_time_in_proportion_to_their_number() -> None:
    """Each batch is appended once; images beyond the limit are dropped for good."""
    buffer = ImageBuffer(300)
    kept = buffer.images
    for _ in buffer.record(torch.zeros(100, dtype=torch.uint8) for _ in range(3)):
        assert buffer.images is kept
    assert len(kept) == 3
    assert list(map(len, buffer.record([torch.zeros(1, dtype=torch.uint8)]))) == [1] and not buffer.images


def test_the_classifier_takes_the_held_out_images_in_batches(
    params: Params, tmp_path: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 images of 512x512 at once would take 170 GB in the first convolution."""
    sizes, features = [], Classifier.features
    monkeypatch.setattr(Classifier, "features", lambda self, x: sizes.append(len(x)) or features(self, x))
    cfg = params.evaluator.model_copy(update={"classifier_steps": 1, "batch_size": 16, "classifier_width": 4})
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(50, dtype=torch.long)
    split: Any = SimpleNamespace(images=images, labels=labels, shape=(1, 8, 8), class_names=DIGIT_NAMES)
    accuracy = train_classifier(cfg, split, split, tmp_path / "classifier", CPU, scratch)
    assert sizes == [16, 16, 16, 16, 2] and accuracy in (0.0, 1.0)


def test_logits_are_computed_for_a_part_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of 50,000 images and 1,000 classes are 200 MB."""
    net, sizes = Classifier(1, 4, 8, 10).eval(), []
    net.head.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    features = torch.randn(ROWS + 5, 8)
    assert len(net.classify(features)) == len(features) and sizes == [ROWS, 5]


@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 8, 8), 100), ((3, 64, 64), 100), ((3, 512, 512), 8), ((3, 4096, 4096), 1)]
)
def test_a_picture_has_fewer_rows_of_larger_images(shape: tuple[int, int, int], rows: int) -> None:
    """100 rows of 512x512 would be a PNG of half a gigabyte in the page."""
    labels = choose_picture_labels(30_000, 4, shape)
    assert len(labels) == 4 * rows and labels.unique().numel() == rows
    assert rows == 1 or len(labels) * shape[1] * shape[2] <= MAX_PIXELS


def test_only_the_pictures_that_the_page_shows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for turn in range(1, 101):
        (tmp_path / f"turn_{turn:06d}.png").write_bytes(png(image_grid(np.zeros((1, 1, 1, 8, 8), np.uint8))))
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    monkeypatch.setattr(sheet, "draw_comparison", lambda *_: b"")
    nothing: Any = SimpleNamespace(has_images=False, conditional=True)
    pictures = draw_pictures(nothing, nothing, nothing, torch.empty(0), nothing, 1, tmp_path)
    assert len(read) == len(pictures) - 1 == 12 and "after 100 generator turns" in pictures


@pytest.mark.parametrize(("batch", "timed"), [(4, 4), (64, 20)])
def test_no_batch_is_timed_that_the_evaluation_did_not_run(params: Params, batch: int, timed: int) -> None:
    """A preset whose images fit in batches of 20 would run out of memory at 512, after hours of evaluation."""
    sizes: list[int] = []
    student = Sampler("student", 1, (1, 8, 8), False, CPU, lambda z, cond: sizes.append(len(z)) or z)
    cfg = params.evaluate.model_copy(update={"batch_size": 20, "timing_batch": batch, "timing_repeats": 1})
    timing = time_samplers(student, [], torch.zeros(50, dtype=torch.long), cfg)
    assert sorted(set(sizes)) == sorted({1, timed, 16}) and timing.best_batch in (1, 16) and timing.batch_size == timed
