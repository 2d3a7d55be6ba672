"""Validation: its noise, its labels and its judges."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import ValidationConfig
from dmd.data.splits import Split, load_split
from dmd.distillation.setup import validation_set
from dmd.samplers.sampler import Sampler
from evaluation.evaluator.evaluator import replicate_seed
from evaluation.statistics.noise import noise_of
from evaluation.validation.validator import Validator, spread
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.networks import CPU


class Recorder:
    """A toy generator that records the noise and the labels of every batch."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        toy = sampler()

        def make(z: Tensor, cond: Tensor | None) -> Tensor:
            assert cond is not None
            self.calls.append((z, cond))
            return toy.sample(z, cond)

        self.recording = Sampler("toy", 1, (1, 8, 8), True, CPU, make)

    def sampler(self) -> Sampler:
        return self.recording


def new_validator(folder: Path, batch_size: int, seed: int = 0) -> Validator:
    """A validator with the toy evaluator's judges: three draws of 20 images, for 40 real ones of 8 classes."""
    labels = torch.arange(40) % 8
    real = sampler().images(labels, torch.Generator().manual_seed(0))
    cfg = ValidationConfig(images=20, draws=3, tolerance=1.0)
    return Validator(toy_evaluator().extractors.networks, real, labels, 10, cfg, seed, folder, batch_size)


def test_images_are_generated_in_batches_with_the_same_noise(tmp_path: Path) -> None:
    results, pictures, recorder = [], [], Recorder()
    for size in (7, 1000):
        results.append(new_validator(tmp_path, size)(recorder, 1))  # type: ignore[arg-type]
        pictures.append((tmp_path / "turn_000001.png").read_bytes())
    assert results[0].scores == pytest.approx(results[1].scores, rel=1e-3) and pictures[0] == pictures[1]
    assert results[0].numbers.keys() == {"validation_fd_classifier", "validation_fd_evaluator"}
    assert fmean(results[0].numbers.values()) == pytest.approx(fmean(results[0].scores))
    assert [len(z) for z, _ in recorder.calls] == [*[7] * 5, 5, *[7, 7, 6] * 3, 40, *[20] * 3]


def test_every_validation_has_the_same_noise_and_each_draw_its_own(tmp_path: Path) -> None:
    recorder, validator = Recorder(), new_validator(tmp_path, 1000)
    first, second = (validator(recorder, turn) for turn in (1, 2))  # type: ignore[arg-type]
    assert first == second
    half = len(recorder.calls) // 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(recorder.calls[:half], recorder.calls[half:], strict=True))
    assert len({z[0].sum().item() for z, _ in recorder.calls[1:half]}) == 3


def test_generated_images_have_the_labels_of_the_real_ones_of_their_draw(tmp_path: Path) -> None:
    """Real image i belongs to draw i % draws. Shares of classes would otherwise differ by chance."""
    recorder, labels = Recorder(), torch.arange(40) % 8
    new_validator(tmp_path, 1000)(recorder, 1)  # type: ignore[arg-type]
    for draw, (_, generated) in enumerate(recorder.calls[1:]):
        assert torch.equal(generated, spread(labels[draw::3], 20))


def test_labels_are_spread_in_their_proportions() -> None:
    assert spread(torch.tensor([3, 3, 5]), 6).tolist() == [3, 3, 3, 3, 5, 5]
    assert spread(torch.tensor([1, 1, 1]), 2).tolist() == [1, 1]
    assert spread(torch.arange(100) % 4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_noise_is_neither_that_of_the_final_measures_nor_that_of_another_seed() -> None:
    final = [torch.Generator().manual_seed(replicate_seed(s, r)) for s in (0, 1, 1000, 2000) for r in range(4)]
    ours = [noise_of("validation", seed, draw) for seed in (0, 1, 2000) for draw in (*range(4), "picture")]
    first, second = ({torch.randn(2, generator=rng)[0].item() for rng in rngs} for rngs in (final, ours))
    assert not first & second and len(second) == len(ours)


def test_without_classes_the_clip_model_judges_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The classifier of data without classes has random weights."""
    from evaluation.validation import validator

    judges = toy_evaluator().extractors.networks
    monkeypatch.setattr(validator, "load_extractors", lambda *_: (None, dict(judges)))
    images, cfg = torch.zeros(20, 1, 8, 8, dtype=torch.uint8), ValidationConfig(images=20, draws=2, tolerance=1.0)
    for classes, expected in (((), {"evaluator"}), (("a", "b"), {"evaluator", "classifier"})):
        train = Split(images, torch.zeros(20).long(), ["a"] * 20, classes, ("a", "b"))  # type: ignore[arg-type]
        made = validator.new_validator(tmp_path, train, images, train.labels, cfg, 0, tmp_path, CPU)
        assert made.judges.keys() == expected


@pytest.mark.parametrize(("side", "columns"), [(8, 100), (512, 8), (4096, 1)])
def test_a_picture_of_large_images_has_fewer_columns(side: int, columns: int, tmp_path: Path) -> None:
    """100 columns of 512x512 would be a picture of 105 million pixels at each validation."""
    cfg = ValidationConfig(images=16, draws=2, tolerance=1.0)
    judge = {"pixels": lambda images: images.flatten(1)[:, :4].float()}
    real = torch.randint(256, (6, 1, 1, 1), dtype=torch.uint8).expand(6, 1, side, side)
    labels = torch.zeros(6, dtype=torch.long)
    assert Validator(judge, real, labels, 1000, cfg, 0, tmp_path, 1).columns == columns


def test_the_images_of_the_validation_split_stay_on_disk(data_folder: Path) -> None:
    """5,000 images of 512x512 would take 3.9 GB while the generator trains."""
    train, validation = (load_split(data_folder, name) for name in ("train", "validation"))
    nothing: Any = None
    assert validation_set(train, validation, nothing, nothing)[0] is validation.images
