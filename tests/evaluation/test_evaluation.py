"""The measures agree with closed forms and with independent implementations, and see what they should see."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from prdc import compute_prdc
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from dmd.samplers.sampler import Sampler
from evaluation.evaluator.prefetch import prefetch
from evaluation.features.store import FeatureStore
from evaluation.metrics import pairwise
from evaluation.metrics.comparison import ConditionedImages, Conditions, FeatureComparison
from evaluation.metrics.measures import MEASURES, FeatureMeasure, clip_score
from evaluation.metrics.pairwise import SetPairs, mean_pairwise_distance, pairs_between, pairs_within
from evaluation.metrics.reference import Reference
from evaluation.metrics.scores import compute_scores, jackknife_scores
from evaluation.statistics.frechet import Gaussian, extrapolate_frechet, frechet_distance
from evaluation.statistics.intervals import GROUPS, jackknife
from evaluation.timing.latency import time_samplers
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT


def features(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    return (torch.randn(n, d, generator=rng) @ mix) * scale + shift


def pairs(x: Tensor, y: Tensor, k: int) -> SimpleNamespace:
    """Measures of generated features x against reference features y that need no further statistics."""
    statistics = pairs_between(x, y, pairs_within(y, k), k)[0][0]
    comparison = FeatureComparison("a", x, statistics, SimpleNamespace(neighbours=k))  # type: ignore[arg-type]
    names = ("kid", "precision", "recall", "density", "coverage")
    computed = {name: m.compute(comparison) for name in names if isinstance(m := MEASURES[name], FeatureMeasure)}
    return SimpleNamespace(**computed)


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
    assert pairs(x, y, 3).kid == pytest.approx(want, rel=1e-6)


def test_precision_and_recall_equal_a_brute_force_search() -> None:
    k = 3
    real, fake = features(150, 8, 0), features(130, 8, 1, 0.5)

    def share(points: Tensor, centres: Tensor) -> float:
        balls = NearestNeighbors(n_neighbors=k + 1).fit(centres.numpy()).kneighbors(centres.numpy())[0][:, -1]
        gaps = np.linalg.norm(points.numpy()[:, None] - centres.numpy()[None], axis=2)
        return float((gaps <= balls[None]).any(axis=1).mean())

    got = pairs(fake, real, k)
    assert (got.precision, got.recall) == (pytest.approx(share(fake, real)), pytest.approx(share(real, fake)))


def test_recall_sees_dropped_modes_and_precision_sees_noise() -> None:
    real = torch.cat([features(200, 4, i, shift=10.0 * i, scale=0.1) for i in range(5)])
    three_modes = torch.cat([features(200, 4, 10 + i, shift=10.0 * i, scale=0.1) for i in range(3)])
    got = pairs(three_modes, real, 3)
    assert got.precision > 0.9 and got.recall == pytest.approx(0.6, abs=0.06)
    noisy = torch.cat([three_modes[:540], torch.rand(60, 4) * 1000 + 100])
    assert pairs(noisy, real, 3).precision == pytest.approx(got.precision * 0.9, abs=0.03)


def test_clip_score_is_a_hundred_times_the_cosine() -> None:
    image = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    text = torch.tensor([[5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert clip_score(ConditionedImages(image, text, torch.zeros(3), None)) == pytest.approx(
        (100 + 100 / 2**0.5 + 0) / 3
    )


def test_noise_does_not_depend_on_the_batch_size() -> None:
    labels = torch.arange(50) % 10
    one, other = (torch.cat(list(sampler().batches(labels, size, seed=4))) for size in (50, 7))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.cat(list(sampler().batches(labels, 50, seed=5))))


def test_the_evaluator_is_repeatable_and_prefers_the_right_distribution() -> None:
    j = toy_evaluator()
    good, again, bad = (j.evaluate(sampler(shift), 5, n)[0] for shift, n in ((0.0, 64), (0.0, 300), (0.5, 64)))
    torch.testing.assert_close(
        torch.tensor(list(good.fd.values())), torch.tensor(list(again.fd.values())), rtol=1e-4, atol=1e-6
    )
    assert good.replicates == 3 and good.samples == 300
    for name in good.fd:
        assert good.interval.fd[name].low <= good.fd[name] <= good.interval.fd[name].high
        assert bad.fd[name] > 5 * good.fd[name] and bad.precision[name] < good.precision[name]


def test_a_generator_without_conditions_has_no_clip_score() -> None:
    assert toy_evaluator().evaluate(sampler(conditional=False), 5, 64)[0].clip_score is None
    assert toy_evaluator().evaluate(sampler(), 5, 64)[0].clip_score is not None


def test_the_reference_survives_its_folder(tmp_path) -> None:
    ref = toy_evaluator().reference
    ref.save(tmp_path)
    back = Reference.load(tmp_path)
    assert torch.equal(back.features["classifier"], ref.features["classifier"]) and torch.equal(back.labels, ref.labels)
    assert (back.captions, back.replicates, back.neighbours, back.picture_seed) == (ref.captions, 3, 3, 1)


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


def test_density_and_coverage_equal_prdc() -> None:
    """And precision and recall; prdc counts what lies strictly within a ball, which no two random points contest."""
    real, fake = features(300, 8, 0), features(260, 8, 1, 0.4, 0.8)
    got = pairs(fake, real, 5)
    want = compute_prdc(real_features=real.double().numpy(), fake_features=fake.double().numpy(), nearest_k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(got, name) == pytest.approx(want[name], rel=1e-3), name


def test_density_sees_a_crowd_and_coverage_dropped_modes() -> None:
    real = torch.cat([features(200, 4, i, shift=10.0 * i, scale=0.1) for i in range(5)])
    modes = torch.cat([features(200, 4, 10 + i, shift=10.0 * i, scale=0.1) for i in range(3)])
    assert pairs(modes, real, 5).coverage == pytest.approx(0.6, abs=0.06)
    crowd = real[:1].repeat(1000, 1) + 1e-4 * torch.randn(1000, 4)
    assert pairs(crowd, real, 5).density > 0.5 and pairs(crowd, real, 5).coverage < 0.05


def test_a_copy_of_the_training_images_is_exposed() -> None:
    """A generator that repeats its data lies at distance 0; one that draws from the same law lies where others do."""
    ref = toy_evaluator().reference
    copies, honest = ref.features["evaluator"], ref.held_out["evaluator"]
    copied, fair = (compute_scores({"evaluator": x}, None, ref)[0].nearest["evaluator"] for x in (copies, honest))
    assert copied.closer > 0.9 and copied.median < 1e-6
    assert fair.closer <= 0.02 and fair.median == pytest.approx(fair.held_out)


def test_dropped_classes_and_noise_show_where_they_should() -> None:
    """Two classes replaced by others: recall and coverage, and those classes' rows; a tenth of noise: precision."""
    j = toy_evaluator()
    labels = j.reference.labels
    whole = j.reference.held_out
    conditions = Conditions(labels, torch.eye(64)[labels], lambda f: labels)
    fair = compute_scores(whole, conditions, j.reference)[0]
    dropped = {k: v[torch.where(labels < 2, torch.arange(300) + 2, torch.arange(300))] for k, v in whole.items()}
    poorer = compute_scores(dropped, conditions, j.reference)[0]
    noisy = {k: torch.cat([v[:270], v[:30] + 100 * torch.randn(30, v.shape[1])]) for k, v in whole.items()}
    noise = compute_scores(noisy, conditions, j.reference)[0]
    for k in whole:
        assert poorer.recall[k] < fair.recall[k] - 0.1 and poorer.coverage[k] < fair.coverage[k] - 0.1
        assert noise.precision[k] == pytest.approx(0.9 * fair.precision[k], abs=0.03)
        assert noise.coverage[k] > 0.8 * fair.coverage[k]
    assert poorer.classes["0"].coverage < 0.2 < poorer.classes["5"].coverage


def test_what_is_left_without_a_group_is_as_if_it_had_never_been_there() -> None:
    """Every measure, taken from the one pass over all pairs, against one over the rows that are left."""
    j = toy_evaluator()
    x = {k: v[:290] for k, v in j.reference.held_out.items()}  # more than a chunk of rows; groups of different sizes
    conditions = Conditions(j.reference.labels[:290], torch.randn(290, 64), lambda f: j.reference.labels[: len(f)])
    whole, *parts = compute_scores(x, conditions, j.reference, groups=4)
    apart = compute_scores(x, conditions, j.reference)[0]
    # The kernel's sums by groups are added up in another order: equal to rounding, on some CPUs to the bit.
    assert whole.kid == pytest.approx(apart.kid, rel=1e-9)
    assert whole == apart.model_copy(update={"kid": whole.kid})
    kept = [torch.arange(290) % 4 != g for g in range(4)]
    for part, mine in zip(parts, kept, strict=True):
        left = Conditions(
            conditions.labels[mine], conditions.caption_embeds[mine], lambda f, m=mine: conditions.labels[m]
        )
        want = compute_scores({k: v[mine] for k, v in x.items()}, left, j.reference)[0]
        for name in ("fd", "fd_held_out", "kid", "precision", "recall", "density", "coverage"):
            assert getattr(part, name) == pytest.approx(getattr(want, name), rel=1e-9), name
            assert getattr(part, name) != getattr(whole, name) or name in ("precision", "recall"), name
        assert (part.clip_score, part.accuracy) == (pytest.approx(want.clip_score), want.accuracy)


def test_the_jackknife_replaces_every_measure_that_has_an_interval() -> None:
    j = toy_evaluator()
    x, labels = j.reference.held_out, j.reference.labels
    conditions = Conditions(labels, torch.eye(64)[labels], lambda f: labels)
    parts = compute_scores(x, conditions, j.reference, groups=GROUPS)
    scores = jackknife_scores(parts)
    assert len(scores) == GROUPS and all((s.nearest, s.classes) == (parts[0].nearest, parts[0].classes) for s in scores)
    for name in (m.name for m in MEASURES.values() if m.has_interval):
        for k, whole in parts[0].values(name).items():
            values = jackknife(whole, [part.values(name)[k] for part in parts[1:]])
            assert [s.values(name)[k] for s in scores] == values, name


def test_a_reference_holds_what_is_derived_from_it(tmp_path) -> None:
    ref = toy_evaluator().reference
    ref.save(tmp_path)
    found = Reference.load(tmp_path)
    assert found.stored and found.digest == ref.digest
    for k, pairs in pairs_of(ref).items():
        assert torch.equal(found.pairs[k].radii, pairs.radii) and torch.equal(found.pairs[k].kernel, pairs.kernel)
        assert torch.equal(found.held_out_distances[k], ref.held_out_distances[k])


def pairs_of(ref: Reference) -> dict[str, SetPairs]:
    return {k: pairs_within(v, ref.neighbours) for k, v in ref.features.items()}


def test_many_pairs_show_their_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pairwise, "PROGRESS_PAIRS", 600 * 600)
    x = torch.randn(600, 3)
    pairs_within(x[:599], k=3)
    assert capsys.readouterr().err == ""
    pairs_within(x, k=3)
    assert capsys.readouterr().err.splitlines()[-1].startswith("images compared with 600, 3 features: 600/600")


def test_mean_pairwise_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert mean_pairwise_distance(x) == pytest.approx((1 + 3 + 2) / 3) and mean_pairwise_distance(x[:1]) == 0


def test_the_distance_of_infinitely_many_samples_is_nearly_that_of_the_distributions() -> None:
    """The same law: FD is 0, while 400 samples say much more; another law: near the closed form."""
    d = 8
    same = Gaussian(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    x = torch.randn(400, d, generator=torch.Generator().manual_seed(1))
    plain = frechet_distance(Gaussian.fit(x), same)
    assert plain > 0.05 and abs(extrapolate_frechet(x, same)) < plain / 4
    assert extrapolate_frechet(x + 0.5, same) == pytest.approx(0.25 * d, rel=0.1)


def test_features_are_kept_and_a_new_extractor_computes_only_its_own(tmp_path) -> None:
    """The second time nothing is generated; a new extractor sees the kept images; another source is made anew."""
    made, seen = [], []

    def batches():
        made.append(1)
        yield torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(4, 1, 1, 1)

    def extractor(name: str):
        def run(images: Tensor) -> Tensor:
            seen.append(name)
            return images.flatten(1).float()

        return run

    store = FeatureStore(tmp_path, {"a": "1", "b": "1"})
    first = store.features({"source": "s"}, {"a": extractor("a")}, batches)
    again = store.features({"source": "s"}, {"a": extractor("a"), "b": extractor("b")}, batches)
    assert torch.equal(first["a"], again["a"]) and torch.equal(again["a"], again["b"])
    assert (len(made), seen) == (1, ["a", "b"])
    store.features({"source": "t"}, {"a": extractor("a")}, batches)
    FeatureStore(tmp_path, {"a": "2"}).features({"source": "s"}, {"a": extractor("a")}, batches)
    assert (len(made), seen) == (2, ["a", "b", "a", "a"])
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut short")
    store.features({"source": "s"}, {"a": extractor("a")}, batches)
    assert len(made) == 3
    files = len(list(tmp_path.iterdir()))
    for _ in range(2):  # a split's images lie on disk: of them the features alone are kept
        store.features({"split": "train"}, {"a": extractor("a")}, batches, keep_images=False)
    assert (len(made), len(list(tmp_path.iterdir()))) == (4, files + 1)


def test_the_evaluator_gives_the_same_from_the_store(tmp_path) -> None:
    plain = toy_evaluator().evaluate(sampler(), 5, 64)[0]
    stored = [toy_evaluator(FeatureStore(tmp_path, {})).evaluate(sampler(), 5, 64, "source")[0] for _ in range(2)]
    assert stored[0] == stored[1] == plain


def test_batches_made_ahead_are_the_same_and_an_error_comes_through() -> None:
    assert list(prefetch(iter([torch.tensor(1), torch.tensor(2)]))) == [torch.tensor(1), torch.tensor(2)]

    def broken():
        yield torch.tensor(1)
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError):
        list(prefetch(broken()))
    for first in prefetch(torch.tensor(i) for i in range(100)):
        assert first == 0
        break  # the thread that makes them ends


@pytest.mark.slow
def test_fifty_thousand_images_stay_in_memory_and_the_second_time_is_quick(tmp_path) -> None:
    """Two replicates of 25,000 images of 32x32 in colour against 10,000, every measure: below 3 GiB; again: a tenth."""
    code = f"""
import resource, sys, time, torch
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dmd.samplers.sampler import Sampler
from evaluation.evaluator.evaluator import Evaluator
from evaluation.features.extractors import Extractors
from evaluation.features.store import FeatureStore
from evaluation.metrics.reference import Reference
from evaluation.models.classifier import Classifier
from tests.helpers.evaluators import FakeClip
from tests.helpers.networks import CPU
torch.manual_seed(0)
net = Classifier(3, 16, 64, 10).eval()
def make(z, cond):
    return 0.3 * z + (cond.float()[:, None, None, None] - 4.5) / 9
toy = Sampler("toy", 1, (3, 32, 32), True, CPU, make)
labels = torch.arange(25_000) % 10
few = torch.arange(10_000) % 10
real, held_out = (torch.cat([net(x) for x in toy.batches(few[:n], 500, s)]) for n, s in ((10_000, 7), (2_000, 8)))
names = [str(i) for i in range(10)]
reference = Reference(
    splits=["train"],
    features={{"evaluator": real, "classifier": real}}, held_out={{"evaluator": held_out, "classifier": held_out}},
    real_labels=few, labels=labels, class_names=names, captions=names, replicates=2, neighbours=3,
    picture_labels=labels[:20], picture_seed=1,
)
known = dict.fromkeys(("evaluator", "classifier"), "x")
extractors = Extractors(FakeClip(), {{"evaluator": net, "classifier": net}}, known, known, {{}})
seconds = []
for _ in range(2):
    start = time.monotonic()
    evaluator = Evaluator(extractors, reference, FeatureStore(Path({str(tmp_path)!r}), known))
    made = evaluator.evaluate(toy, 5, 500, "source")[0]
    seconds.append(time.monotonic() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, *seconds)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    gib, first, second = map(float, done.stdout.split())
    assert gib < 3 and second < first / 10, done.stdout
