"""The measures agree with closed forms and with independent implementations, and see what they should see."""

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from conftest import CPU
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from dmd.sampling import Sampler
from evaluation.classifier import Classifier
from evaluation.distances import Gaussian, frechet_distance, kernel_distance, neighbour_radii, precision_recall
from evaluation.judge import Judge, clip_score, mean_interval
from evaluation.latency import time_samplers
from evaluation.reference import Reference


def features(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    return (torch.randn(n, d, generator=rng) @ mix) * scale + shift


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """Diagonal covariances: sum (mu1 - mu2)^2 + (s1 - s2)^2."""
    mu1, mu2, s1, s2 = torch.rand(4, 6, dtype=torch.float64)
    expected = ((mu1 - mu2) ** 2 + (s1 - s2) ** 2).sum().item()
    got = frechet_distance(Gaussian(mu1, torch.diag(s1**2)), Gaussian(mu2, torch.diag(s2**2)))
    assert got == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_equals_clean_fid() -> None:
    x, y = features(400, 32, 0), features(500, 32, 1, 0.3, 1.2)
    want = cleanfid.fid_from_feats(x.numpy().astype(np.float64), y.numpy().astype(np.float64))
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(x)) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_with_fewer_samples_than_dimensions() -> None:
    x, y = features(20, 32, 0), features(25, 32, 1)
    want = cleanfid.fid_from_feats(x.numpy().astype(np.float64), y.numpy().astype(np.float64))
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(want, rel=1e-3)


def test_kernel_distance_equals_clean_fid() -> None:
    """On one subset that holds every sample the two are the same estimator."""
    x, y = features(120, 16, 0), features(120, 16, 1, 0.3)
    want = cleanfid.kernel_distance(x.double().numpy(), y.double().numpy(), num_subsets=1, max_subset_size=120)
    assert kernel_distance(x, y) == pytest.approx(want, rel=1e-6)


def test_precision_and_recall_equal_a_brute_force_search() -> None:
    k = 3
    real, fake = features(150, 8, 0), features(130, 8, 1, 0.5)

    def share(points: Tensor, centres: Tensor) -> float:
        balls = NearestNeighbors(n_neighbors=k + 1).fit(centres.numpy()).kneighbors(centres.numpy())[0][:, -1]
        gaps = np.linalg.norm(points.numpy()[:, None] - centres.numpy()[None], axis=2)
        return float((gaps <= balls[None]).any(axis=1).mean())

    got = precision_recall(fake, real, neighbour_radii(real, k), k)
    assert got == (pytest.approx(share(fake, real)), pytest.approx(share(real, fake)))


def test_recall_sees_dropped_modes_and_precision_sees_noise() -> None:
    real = torch.cat([features(200, 4, i, shift=10.0 * i, scale=0.1) for i in range(5)])
    radii = neighbour_radii(real, 3)
    three_modes = torch.cat([features(200, 4, 10 + i, shift=10.0 * i, scale=0.1) for i in range(3)])
    precision, recall = precision_recall(three_modes, real, radii, 3)
    assert precision > 0.9 and recall == pytest.approx(0.6, abs=0.06)
    noisy = torch.cat([three_modes[:540], torch.rand(60, 4) * 1000 + 100])
    assert precision_recall(noisy, real, radii, 3)[0] == pytest.approx(precision * 0.9, abs=0.03)


def test_clip_score_is_a_hundred_times_the_cosine() -> None:
    image = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    text = torch.tensor([[5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert clip_score(image, text) == pytest.approx((100 + 100 / 2**0.5 + 0) / 3)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        interval = mean_interval(rng.normal(3.0, 0.5, 4).tolist())
        hits += interval.low <= 3.0 <= interval.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


def sampler(shift: float = 0.0, conditional: bool = True) -> Sampler:
    def make(z: Tensor, cond: Tensor | None) -> Tensor:
        level = 0 if cond is None else (cond.float()[:, None, None, None] - 4.5) / 9
        return 0.2 * z + level + shift

    return Sampler("toy", 1, (1, 8, 8), conditional, CPU, make)


def test_noise_does_not_depend_on_the_batch_size() -> None:
    labels = torch.arange(50) % 10
    one, other = (torch.cat(list(sampler().batches(labels, size, seed=4))) for size in (50, 7))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.cat(list(sampler().batches(labels, 50, seed=5))))


class FakeClip:
    """Stands for the text tower alone: caption "i" points along axis i."""

    def caption_features(self, captions: list[str]) -> Tensor:
        return torch.eye(64)[[int(c) for c in captions]]


def judge() -> Judge:
    torch.manual_seed(0)
    net = Classifier(1, 4, 64, 10).eval()
    labels = torch.arange(300) % 10
    real = torch.cat(list(sampler().batches(labels, 100, seed=77)))
    reference = Reference(
        {"evaluator": net(real), "classifier": net(real)},
        labels,
        [str(i) for i in range(10)],
        3,
        3,
        labels[:20].clone(),
        1,
    )
    return Judge(FakeClip(), {"evaluator": net, "classifier": net}, reference)  # type: ignore[arg-type]


def test_the_judge_is_repeatable_and_prefers_the_right_distribution() -> None:
    j = judge()
    good, again, bad = j.judge(sampler(), 5, 64), j.judge(sampler(), 5, 300), j.judge(sampler(0.5), 5, 64)
    torch.testing.assert_close(
        torch.tensor(list(good.fd.values())), torch.tensor(list(again.fd.values())), rtol=1e-4, atol=1e-6
    )
    assert good.draws == 3 and good.samples == 300
    for name in good.fd:
        assert good.interval.fd[name].low <= good.fd[name] <= good.interval.fd[name].high
        assert bad.fd[name] > 5 * good.fd[name] and bad.precision[name] < good.precision[name]


def test_a_generator_without_conditions_has_no_clip_score() -> None:
    assert judge().judge(sampler(conditional=False), 5, 64).clip_score is None
    assert judge().judge(sampler(), 5, 64).clip_score is not None


def test_the_reference_survives_its_folder(tmp_path) -> None:
    ref = judge().reference
    ref.save(tmp_path)
    back = Reference.load(tmp_path)
    assert torch.equal(back.features["classifier"], ref.features["classifier"]) and torch.equal(back.labels, ref.labels)
    assert (back.captions, back.draws, back.neighbours, back.picture_seed) == (ref.captions, 3, 3, 1)


def test_more_passes_take_more_time() -> None:
    weight = torch.randn(400, 400)

    def passes(n: int) -> Sampler:
        def make(z: Tensor, cond: Tensor | None) -> Tensor:
            for _ in range(n):
                weight @ weight
            return z

        return Sampler(f"ddim_{n}" if n > 1 else "student", n, (1, 8, 8), False, CPU, make)

    timing = time_samplers(passes(1), [passes(30)], torch.zeros(4, dtype=torch.long), 3)
    assert timing.speedup["ddim_30"] > 5
    ratio = timing.teachers["ddim_30"].seconds_per_image / timing.student.seconds_per_image
    assert timing.speedup["ddim_30"] == pytest.approx(ratio)
