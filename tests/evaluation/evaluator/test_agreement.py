"""A baseline by other extractors or judges is refused in one line before anything is sampled."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmd.config import Params
from dmd.errors import EvaluatorError
from evaluation.evaluator.agreement import check_agreement
from evaluation.evaluator.evaluator import Evaluator
from evaluation.features.extractors import Extractors
from evaluation.metrics.schema import Baseline, JudgeFacts, write_model
from tests.helpers.evaluators import toy_evaluator
from tests.helpers.networks import CPU
from tests.helpers.reports import generator_measures, run_metrics

HASH = "0" * 64  # of every extractor in the invented baseline


def write_baseline(folder: Path, *names: str) -> Path:
    """A baseline by these extractors, and by the judge hps."""
    metrics = run_metrics(generator_measures(dict.fromkeys(names, 1.0)), dict.fromkeys(names, 1.0))
    metrics.provenance.judges = {"hps": JudgeFacts(sha256="h", processor="p")}
    baseline = Baseline(**{k: v for k, v in dict(metrics).items() if k in Baseline.model_fields})
    write_model(baseline, folder / "baseline.json")
    return folder


def extractors(*names: str, sha256: str = HASH, judge: str = "h") -> Extractors:
    network = next(iter(toy_evaluator().extractors.networks.values()))
    judges = {"hps": SimpleNamespace(facts=JudgeFacts(sha256=judge, processor="p"))}
    return replace(
        toy_evaluator().extractors,
        networks=dict.fromkeys(names, network), sha256=dict.fromkeys(names, sha256),
        skipped={"dinov2": "weights/dinov2 does not exist"}, judges=judges,
    )  # fmt: skip


def test_equal_extractors_agree_and_a_judge_may_be_missing(tmp_path: Path) -> None:
    folder = write_baseline(tmp_path, "evaluator", "classifier")
    check_agreement(extractors("classifier", "evaluator"), folder)
    check_agreement(replace(extractors("classifier", "evaluator"), judges={}), folder)


@pytest.mark.parametrize(
    ("here", "line"),
    [
        (("evaluator", "dinov2"), "without the extractor dinov2; run dvc repro --force baseline"),
        ((), "with the extractor evaluator, which is not here; get its weights, or run dvc repro"),
    ],
)
def test_an_extractor_on_one_side_only_is_an_error(tmp_path: Path, here: tuple[str, ...], line: str) -> None:
    with pytest.raises(EvaluatorError, match=line):
        check_agreement(extractors(*here), write_baseline(tmp_path, "evaluator"))


def test_an_extractor_that_was_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EvaluatorError, match=r"dinov2, which is not here \(weights/dinov2 does not exist\)"):
        check_agreement(extractors("evaluator"), write_baseline(tmp_path, "evaluator", "dinov2"))


def test_other_weights_of_an_extractor_or_judge_are_an_error(tmp_path: Path) -> None:
    folder = write_baseline(tmp_path, "evaluator")
    with pytest.raises(EvaluatorError, match="with other weights of the extractor evaluator"):
        check_agreement(extractors("evaluator", sha256="1" * 64), folder)
    with pytest.raises(EvaluatorError, match="with other weights of the judge hps"):
        check_agreement(extractors("evaluator", judge="other"), folder)


def test_the_check_comes_when_the_baseline_is_loaded(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage `evaluate` and `evaluation.compare` load it before they sample."""
    other = extractors("evaluator", sha256="1" * 64)
    monkeypatch.setattr(Extractors, "load", lambda *_: other)
    toy_evaluator().reference.save(tmp_path)
    with pytest.raises(EvaluatorError, match="other weights of the extractor evaluator"):
        Evaluator.load(tmp_path, write_baseline(tmp_path, "evaluator"), params.extractors, CPU)
