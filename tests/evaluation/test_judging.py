"""Comparison of two sets of images in memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import evaluation.judging
from dmd.errors import DataError
from evaluation.judging import judge
from evaluation.models.classifier import Classifier
from evaluation.statistics.frechet import Gaussian, frechet_distance

LABELS = torch.arange(200) % 10


def digits(seed: int, labels: Tensor = LABELS) -> Tensor:
    """uint8 images [N, 1, 8, 8] whose brightness depends on the label."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randint(100, (len(labels), 1, 8, 8), generator=rng)
    return (noise + 15 * labels[:, None, None, None]).to(torch.uint8)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """An untrained network that stands for both networks of an evaluator's folder."""
    torch.manual_seed(0)
    net = Classifier(1, 4, 16, 10).eval()
    loaded = net, {"evaluator": net, "classifier": net}
    monkeypatch.setattr(evaluation.judging, "load_extractors", lambda folder, device: loaded)
    return net


def test_the_distance_is_that_of_the_features(net: Classifier) -> None:
    x, y = digits(0), digits(1, LABELS[:150])
    figures = judge(x, y, "folder", names=["classifier"])
    expected = frechet_distance(Gaussian.fit(net(x)), Gaussian.fit(net(y)))
    assert figures["fd"] == {"classifier": pytest.approx(expected)}
    assert set(figures) == {"fd", "kid", "precision", "recall", "density", "coverage"}
    assert all(0 < figures[name]["classifier"] <= 1 for name in ("precision", "recall", "coverage"))


def test_other_images_are_farther_away(net: Classifier) -> None:
    near, far = (judge(images, digits(1), "folder") for images in (digits(0), digits(0) // 2))
    for name in ("evaluator", "classifier"):
        assert near["fd"][name] < far["fd"][name] and near["kid"][name] < far["kid"][name]
        assert near["coverage"][name] > far["coverage"][name]


def test_the_kernel_distance_of_one_distribution_is_zero_on_average_with_labels_in_common(net: Classifier) -> None:
    """Both sets have the same labels at the same positions; a plain MMD of them is below zero."""
    values = torch.tensor(
        [
            judge(digits(2 * s), digits(2 * s + 1), Path("folder"), ["classifier"])["kid"]["classifier"]
            for s in range(12)
        ]
    )
    assert abs(values.mean()) < 2 * values.std() / len(values) ** 0.5


def test_too_few_images_are_an_error(net: Classifier) -> None:
    with pytest.raises(DataError, match="4 and 200 images are too few for 3 neighbours"):
        judge(digits(0)[:4], digits(1), "folder")
