"""metrics.json is the headline of at most 60 figures, details.json the rest; together they lose nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmd.errors import EvaluatorError, NumberError
from evaluation.metrics.files import MOST_FIGURES, count_figures, parse_metrics, read_metrics, split, write_metrics
from evaluation.metrics.schema import Metrics, TrainingCost, write_model
from flows.registry.result import flatten
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, report_metrics, run_metrics

RUNS = ("reports", "records/fashion_mnist", "records/fashion_mnist_text")


def many_judges(judges: int, samplers: int, different: bool) -> Metrics:
    """Metrics by many judges; the best sampler of each is another one if they are `different`."""
    names = [f"judge{i}" for i in range(judges)]
    student = generator_measures(dict.fromkeys(names, 1.0))
    teachers = {f"ddim_{n}": generator_measures(dict.fromkeys(names, 2.0), nfe=n) for n in range(1, samplers + 1)}
    best = {k: f"ddim_{i % samplers + 1 if different else samplers}" for i, k in enumerate(names)}
    metrics = run_metrics(student, dict.fromkeys(names, 0.5), teachers=teachers, best_teacher=best)
    metrics.training = TrainingCost(turns=10, images=640, images_of={"critic": 6400})
    return metrics


def test_both_files_together_are_the_metrics_and_share_no_figure(tmp_path: Path) -> None:
    metrics = many_judges(3, 6, different=True)
    write_metrics(metrics, tmp_path / "metrics.json", tmp_path / "details.json")
    assert read_metrics(tmp_path / "metrics.json") == metrics
    head, rest = (dict(flatten(json.loads((tmp_path / f"{n}.json").read_text()))) for n in ("metrics", "details"))
    assert not head.keys() & rest.keys()
    assert head | rest == dict(flatten(metrics.model_dump())) | {k: v for k, v in rest.items() if v == {}}


def test_the_headline_holds_what_people_compare() -> None:
    head = dict(flatten(split(many_judges(2, 2, different=False).model_dump())[0]))
    student = (
        "nfe",
        "samples",
        "clip_score",
        *(f"{m}.judge{i}" for m in ("fd", "precision", "recall") for i in (0, 1)),
    )
    teachers = [f"{n}.{key}" for n in ("ddim_1", "ddim_2") for key in ("nfe", "fd.judge0", "recall.judge1")]
    interval = [f"student.interval.fd.judge{i}.{end}" for i in (0, 1) for end in ("low", "high")]
    names = [*(f"student.{key}" for key in student), *(f"teachers.{key}" for key in teachers), *interval]
    assert {*names, "ratio.fd.judge0", "best_teacher.judge1", "training.turns", "training.images"} <= head.keys()
    assert not [name for name in head if any(word in name for word in ("kid", "classes", "judged", "nearest", "seed"))]


@pytest.mark.parametrize("different", [True, False])
@pytest.mark.parametrize(("judges", "samplers"), [(1, 1), (2, 4), (3, 6), (6, 6), (6, 12)])
def test_the_headline_has_at_most_60_figures_and_every_best_sampler(
    judges: int, samplers: int, different: bool
) -> None:
    metrics = many_judges(judges, samplers, different)
    head, _ = split(metrics.model_dump())
    assert count_figures(head) <= MOST_FIGURES == 60
    for judge, name in metrics.best_teacher.items():
        assert head["teachers"][name]["fd"][judge] == 2.0 and "recall" in head["teachers"][name]


def test_a_file_of_an_earlier_version_is_read_alone(tmp_path: Path) -> None:
    metrics = report_metrics()
    write_model(metrics, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == metrics


@pytest.mark.parametrize("run", RUNS)
def test_the_records_of_the_repository_are_readable(run: str) -> None:
    assert read_metrics(ROOT / run / "metrics.json").ratio.fd


def test_files_of_two_runs_are_an_error(tmp_path: Path) -> None:
    """An old file, which holds everything, beside the details of a newer run."""
    write_model(report_metrics(), tmp_path / "metrics.json")
    write_metrics(report_metrics(), tmp_path / "new.json", tmp_path / "details.json")
    with pytest.raises(EvaluatorError, match=r"metrics.json and details.json beside it both hold \S+: they are of two"):
        read_metrics(tmp_path / "metrics.json")


def test_damaged_or_missing_details_are_one_line() -> None:
    head: Any = json.dumps(split(report_metrics().model_dump())[0]).encode()
    with pytest.raises(EvaluatorError, match=r"^m, or details.json beside it, is not JSON"):
        parse_metrics(head, b"{", "m")
    with pytest.raises(EvaluatorError, match=r"^m: .*: Field required"):
        parse_metrics(head, None, "m")


def test_a_figure_that_is_no_number_writes_neither_file(tmp_path: Path) -> None:
    metrics = report_metrics()
    metrics.student.values("kid")["clip"] = float("inf")
    with pytest.raises(NumberError, match=r"student.kid.clip is NaN or infinite"):
        write_metrics(metrics, tmp_path / "metrics.json", tmp_path / "details.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"[]", b"3", b"null", b"[" * 100_000, b"\xff", b"9" * 5000])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_holds_something_else_is_one_line(text: bytes, which: int) -> None:
    files = [(ROOT / "reports" / name).read_bytes() for name in ("metrics.json", "details.json")]
    files[which] = text
    with pytest.raises(EvaluatorError) as e:
        parse_metrics(files[0], files[1], "metrics.json")
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 1000
