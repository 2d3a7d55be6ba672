"""Validation: its noise, its score, and the spread of the score over the draws."""

from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from dmd.config import Params, ValidationConfig
from dmd.data.splits import Split
from dmd.distillation.selection import Validation, standard_error
from dmd.samplers.sampler import Sampler
from evaluation.evaluator.evaluator import replicate_seed
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.validation.score import geometric_mean, measure_draws
from evaluation.validation.validator import Validator, noise_of
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.networks import CPU

DIMENSIONS = 12


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


def new_validator(params: Params, folder: Path, batch_size: int, seed: int = 0) -> Validator:
    """A validator with the toy evaluator's judges: three draws of 20 images."""
    real = sampler().images(torch.arange(40) % 10, torch.Generator().manual_seed(0))
    cfg = ValidationConfig(images=20, draws=3, tolerance=1.0)
    judges = toy_evaluator().extractors.networks
    return Validator(judges, real, torch.arange(8), 10, cfg, seed, folder, batch_size)


def test_images_are_generated_in_batches_with_the_same_noise(params: Params, tmp_path: Path) -> None:
    results, pictures, recorder = [], [], Recorder()
    for size in (7, 1000):
        results.append(new_validator(params, tmp_path, size)(recorder, 1))  # type: ignore[arg-type]
        pictures.append((tmp_path / "turn_000001.png").read_bytes())
    assert results[0].scores == pytest.approx(results[1].scores, rel=1e-4) and pictures[0] == pictures[1]
    assert results[0].numbers.keys() == {"validation_fd_infinity_classifier", "validation_fd_infinity_evaluator"}
    assert [len(z) for z, _ in recorder.calls] == [*[7] * 5, 5, *[7, 7, 6] * 3, 40, *[20] * 3]


def test_every_validation_has_the_same_noise_and_each_draw_its_own(params: Params, tmp_path: Path) -> None:
    recorder, validator = Recorder(), new_validator(params, tmp_path, 1000)
    first, second = (validator(recorder, turn) for turn in (1, 2))  # type: ignore[arg-type]
    assert first == second
    half = len(recorder.calls) // 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(recorder.calls[:half], recorder.calls[half:], strict=True))
    draws = recorder.calls[1:half]
    assert len({z[0].sum().item() for z, _ in draws}) == len({tuple(y.tolist()) for _, y in draws}) == 3
    assert {int(label) for _, y in draws for label in y} <= set(range(8))


def test_the_noise_is_neither_that_of_the_final_measures_nor_that_of_another_seed() -> None:
    final = [torch.Generator().manual_seed(replicate_seed(s, r)) for s in (0, 1, 1000, 2000) for r in range(4)]
    ours = [noise_of(seed, draw) for seed in (0, 1, 2000) for draw in (*range(4), "picture")]
    first, second = ({torch.randn(2, generator=rng)[0].item() for rng in rngs} for rngs in (final, ours))
    assert not first & second and len(second) == len(ours)


def features(n: int, shift: float, seed: int) -> Tensor:
    """Features [n, DIMENSIONS] of a normal distribution with covariance 1 and every mean at `shift`."""
    return torch.randn(n, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) + shift


def draws_of(shift: float, images: int, draws: int, first_seed: int = 0) -> list[dict[str, Tensor]]:
    """Draws by two judges, the second of which sees features a thousand times larger."""
    parts = [features(images, shift, first_seed + i) for i in range(draws)]
    return [{"small": part, "large": 1000 * part} for part in parts]


def references() -> dict[str, Gaussian]:
    """The Gaussians of standard normal features, by both judges."""
    mean, cov = torch.zeros(DIMENSIONS).double(), torch.eye(DIMENSIONS).double()
    return {"small": Gaussian(mean, cov), "large": Gaussian(mean, 1e6 * cov)}


def test_the_score_does_not_depend_on_the_number_of_images() -> None:
    """The true distance is 12 x 0.3^2 = 1.08; the plain Fréchet distance of 200 images is 0.4 above it."""
    scores = {
        n: [fmean(measure_draws(draws_of(0.3, n, 4, 100 * i), references())[0]) / 1000 for i in range(5)]
        for n in (50, 200)
    }
    for values in scores.values():
        assert abs(fmean(values) - 1.08) < 2 * standard_error(values) + 0.02
    plain = frechet_distance(Gaussian.fit(features(200, 0.3, 0)), references()["small"])
    assert plain > 1.08 + 0.2


def test_the_spread_of_the_score_is_that_of_repeated_validations() -> None:
    """The standard error from one validation agrees with the standard deviation over 40 validations."""
    results = [Validation(measure_draws(draws_of(0.5, 60, 5, 10 * i), references())[0], {}).row() for i in range(40)]
    true = stdev(row["validation_score"] for row in results)
    assert fmean(row["validation_error"] for row in results) == pytest.approx(true, rel=0.3)


def test_each_judge_counts_by_the_ratio_of_its_distances() -> None:
    """Twice the distance by one judge weighs the same, whatever the scale of that judge's features."""
    whole = {"small": 4.0, "large": 9.0e6}
    assert geometric_mean(whole, references()) == pytest.approx(6000)
    for judge in whole:
        changed = geometric_mean({**whole, judge: 2 * whole[judge]}, references())
        assert changed == pytest.approx(2**0.5 * 6000)


def test_a_distance_below_zero_is_the_smallest_one() -> None:
    """An extrapolation may fall below zero for a generator that equals the data."""
    assert (
        geometric_mean({"small": -0.1, "large": 1.0}, references())
        == geometric_mean({"small": 0.0, "large": 1.0}, references())
        > 0
    )


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
