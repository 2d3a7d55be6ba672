"""The evaluator gives repeatable measures, seeds noise by replicate and reads features from the store."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.training.shared_work import SharedWork
from evaluation.evaluator.evaluator import Evaluator
from evaluation.evaluator.prefetch import prefetch
from evaluation.features.store import FeatureStore
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.projects import ROOT


def test_noise_does_not_depend_on_the_batch_size() -> None:
    labels = torch.arange(50) % 10
    one, other = (torch.cat(list(sampler().batches(labels, size, 4))) for size in (50, 7))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.cat(list(sampler().batches(labels, 50, 5))))


def test_the_evaluator_is_repeatable_and_prefers_the_right_distribution() -> None:
    evaluator = toy_evaluator()
    good, again, bad = (evaluator.evaluate(sampler(shift), 5, n)[0] for shift, n in ((0.0, 64), (0.0, 300), (0.5, 64)))
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


def test_the_store_does_not_change_the_measures(tmp_path: Path) -> None:
    plain = toy_evaluator().evaluate(sampler(), 5, 64)[0]
    stored = [toy_evaluator(FeatureStore(tmp_path, {})).evaluate(sampler(), 5, 64, "source")[0] for _ in range(2)]
    assert stored[0] == stored[1] == plain


def test_the_scores_of_a_single_replicate_are_computed_by_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process would compute the pairs of all images with the whole reference, and write one entry."""
    toy = toy_evaluator()
    reference = replace(toy.reference, replicates=1)
    measures, scores = Evaluator(toy.extractors, reference).evaluate(sampler(), 5, 64)

    class Second(SharedWork):
        def from_main(self, compute: Any) -> Any:
            return scores

    monkeypatch.setattr("evaluation.evaluator.evaluator.compute_scores", None)
    assert Evaluator(toy.extractors, reference, work=Second()).evaluate(sampler(), 5, 64) == (measures, scores)


def test_prefetching_keeps_the_batches_and_raises_errors() -> None:
    assert list(prefetch(iter([torch.tensor(1), torch.tensor(2)]))) == [torch.tensor(1), torch.tensor(2)]

    def broken():
        yield torch.tensor(1)
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError):
        list(prefetch(broken()))
    for first in prefetch(torch.tensor(i) for i in range(100)):
        assert first == 0
        break  # this must end the producing thread


@pytest.mark.slow
def test_fifty_thousand_images_need_little_memory_and_are_quick_when_stored(tmp_path: Path) -> None:
    """50,000 colour images of 32x32 against 10,000 need less than 3 GiB; the stored ones take a tenth of the time."""
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
torch.set_num_threads(1)  # on a busy machine, threads that wait for each other take most of the time
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
    real_labels=few, labels=labels, real_sources=torch.arange(10_000), sources=torch.arange(25_000) % 10_000,
    class_names=names, captions=names, replicates=2, neighbours=3,
    picture_labels=labels[:20], picture_seed=1,
)
known = dict.fromkeys(("evaluator", "classifier"), "x")
extractors = Extractors(FakeClip(), {{"evaluator": net, "classifier": net}}, known, known, {{}})
seconds = []
for _ in range(2):
    start = time.monotonic()
    evaluator = Evaluator(extractors, reference, FeatureStore(Path({str(tmp_path)!r}), known))
    evaluator.evaluate(toy, 5, 500, "source")
    seconds.append(time.monotonic() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, *seconds)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    gib, first, second = map(float, process.stdout.split())
    assert gib < 3 and second < first / 10, process.stdout
