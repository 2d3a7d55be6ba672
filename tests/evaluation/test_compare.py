"""Generators are compared by paired replicates, and are loaded from folders and DVC revisions."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES
from dmd.errors import EvaluatorError
from dmd.features.facts import TrunkFacts, write_facts
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from evaluation.compare import main
from evaluation.comparing import candidates
from evaluation.comparing.candidates import Candidate, check_fits, evaluate_sources, read_image_shape
from evaluation.comparing.differences import describe_marks, find_differences, give_verdict, tabulate
from evaluation.comparing.page import render_comparison
from evaluation.evaluator.evaluator import Evaluator
from evaluation.sources import SourceError, find_generator
from evaluation.statistics.intervals import Interval, mean_interval
from tests.helpers.evaluators import candidate, toy_evaluator
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, run_metrics


def test_a_shifted_generator_is_worse_and_an_equal_one_is_not() -> None:
    table = find_differences([candidate("a", 0.0), candidate("b", 0.5), candidate("again", 0.0)]).set_index(
        ["generator", "measure"]
    )
    assert table.loc[("b", "fd evaluator"), "verdict"] == "worse" and table.loc[("b", "fd evaluator"), "low"] > 0
    assert set(table.loc["again", "verdict"]) == {"no significant difference"}
    assert (table.loc["again", "difference"] == 0).all()


def test_the_verdict_depends_on_the_direction_of_the_measure() -> None:
    below, across = Interval(low=-2, high=-1), Interval(low=-1, high=1)
    assert give_verdict(below, "lower") == "better" and give_verdict(below, "higher") == "worse"
    assert give_verdict(across, "lower") == "no significant difference"


def with_kid(name: str, values: list[float]) -> Candidate:
    """A generator whose KID by every extractor has these values in its replicates."""
    generator = candidate(name, 0.0)
    kid = {k: mean_interval(values) for k in generator.measures.kid}
    interval = generator.measures.interval.model_copy(update={"kid": kid})
    scores = [
        s.model_copy(update={"kid": dict.fromkeys(s.kid, v)}) for s, v in zip(generator.scores, values, strict=True)
    ]
    return replace(generator, scores=scores, measures=generator.measures.model_copy(update={"interval": interval}))


@pytest.mark.parametrize(
    ("first", "other", "verdict"),
    [
        ([-5.0, -5.1, -4.9], [-9.0, -9.1, -8.9], "no significant difference"),  # both below zero, where none is better
        ([-9.0, -9.1, -8.9], [-5.0, -5.1, -4.9], "no significant difference"),
        ([0.1, -0.1, 0.0], [-9.0, -9.1, -8.9], "no significant difference"),  # the first may be perfect
        ([5.0, 5.1, 4.9], [-9.0, -9.1, -8.9], "better"),
        ([-9.0, -9.1, -8.9], [5.0, 5.1, 4.9], "worse"),
    ],
)
def test_a_more_negative_kid_is_never_better(first: list[float], other: list[float], verdict: str) -> None:
    table = find_differences([with_kid("a", first), with_kid("b", other)]).set_index("measure")
    assert table.loc["kid evaluator", "verdict"] == verdict


def test_the_page_shows_every_generator_and_makes_no_requests() -> None:
    pair = [candidate("first", 0.0), candidate("<second>", 0.3)]
    html = render_comparison(pair, find_differences(pair), "Data: toy.")
    assert "&lt;second&gt;" in html and "<second>" not in html and "http" not in html.replace("http-equiv", "")
    assert list(tabulate(pair).index) == ["first", "<second>"] and "worse" in html


def test_the_page_and_the_text_have_a_line_on_marks() -> None:
    pair = [candidate("a", 0.0), replace(candidate("b", 0.3), marks="evaluator (selects)")]
    line = describe_marks(pair)
    assert (
        line
        == "Computed by: clip_score evaluator, accuracy classifier. Marked judges: a: none; b: evaluator (selects)."
    )
    assert line in render_comparison(pair, find_differences(pair), "Data: toy.")


def test_marks_are_those_of_the_networks_that_a_generator_learned_from(tmp_path: Path) -> None:
    names = ("evaluator", "classifier", "dinov2")
    metrics = run_metrics(generator_measures(dict.fromkeys(names, 1.0)), dict.fromkeys(names, 1.0))
    unknown = "the frozen networks that it learned from are not known"
    assert candidates.describe_marks(tmp_path, metrics, tmp_path, False) == f"evaluator (selects), {unknown}"
    write_facts([TrunkFacts(name="dinov2:x", family="dinov2", sha256="x")], tmp_path)
    expected = "evaluator (selects), classifier (selects), dinov2 (seen in training)"
    assert candidates.describe_marks(tmp_path, metrics, tmp_path, True) == expected


def test_a_generator_folder_is_a_source_and_another_folder_is_an_error(teacher: Teacher, tmp_path: Path) -> None:
    generator = Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES)
    export_generator(generator, teacher, tmp_path / "g")
    assert find_generator(str(tmp_path / "g"), tmp_path / "s") == tmp_path / "g"
    with pytest.raises(SourceError, match=r"has no generator\.json"):
        find_generator(str(tmp_path), tmp_path / "s")


def test_a_generator_of_other_data_is_refused(teacher: Teacher) -> None:
    """Other images ended in the extractors, fewer classes in the embedding; another order gave wrong figures."""
    reference, shape = replace(toy_evaluator().reference, class_names=list(DIGIT_NAMES)), (1, 8, 8)
    generator = Generator(teacher.denoiser, (999,), shape, DIGIT_NAMES)
    check_fits("a", generator, reference, shape)
    check_fits("a", replace(generator, classes=()), reference, shape)
    of_captions = replace(reference, class_names=[], captions=list(reversed(DIGIT_NAMES)))
    for other, target, line in (
        (replace(generator, shape=(3, 8, 8)), reference, r"a: it makes images of shape \(3, 8, 8\), but"),
        (
            replace(generator, classes=DIGIT_NAMES[:5]),
            reference,
            "a: it has 5 classes or captions, but the baseline 10",
        ),
        (replace(generator, classes=(*DIGIT_NAMES[:8], "nine", "eight")), reference, "a: its label 8 is 'nine', but"),
        (generator, of_captions, "a: its label 0 is 'zero', but that of the baseline 'nine'"),
    ):
        with pytest.raises(SourceError, match=line):
            check_fits("a", other, target, shape)


def test_all_generators_are_checked_before_the_first_is_evaluated(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels "0" to "9" of the toy are not the names of digits."""
    monkeypatch.setattr(Evaluator, "load", lambda *_: toy_evaluator())
    monkeypatch.setattr(Evaluator, "evaluate", None)
    save_file({"ddim_50": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, tmp_path / "pictures.safetensors")
    right = Generator(teacher.denoiser, (999,), teacher.shape, tuple(map(str, range(10))))
    for name, generator in (("right", right), ("wrong", replace(right, classes=DIGIT_NAMES))):
        export_generator(generator, teacher, tmp_path / name)
    with pytest.raises(SourceError, match="wrong: its label 0 is 'zero', but that of the baseline '0'"):
        evaluate_sources([str(tmp_path / "right"), str(tmp_path / "wrong")], params, tmp_path, tmp_path)


def test_the_shape_of_images_is_that_of_the_pictures_of_the_baseline(tmp_path: Path) -> None:
    save_file({"ddim_50": torch.zeros(4, 3, 8, 16, dtype=torch.uint8)}, tmp_path / "pictures.safetensors")
    assert read_image_shape(tmp_path) == (3, 8, 16)
    (tmp_path / "pictures.safetensors").write_bytes(b"no")
    with pytest.raises(EvaluatorError, match=r"pictures\.safetensors cannot be read: .*; run dvc repro baseline$"):
        read_image_shape(tmp_path)


@pytest.mark.slow
def test_a_revision_is_fetched_from_dvc(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision holds the generator of an earlier commit; the workspace holds a different generator."""
    monkeypatch.chdir(tmp_path)
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    run("git", "init", "-q")
    run("git", "config", "user.email", "a@b.c")
    run("git", "config", "user.name", "a")
    run(sys.executable, "-m", "dvc", "init", "-q")
    old = Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES)
    export_generator(old, teacher, tmp_path / "artifacts/generator")
    run(sys.executable, "-m", "dvc", "add", "-q", "artifacts/generator")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "one")
    run("git", "tag", "one")
    new = Generator(teacher.denoiser, (500,), teacher.shape, DIGIT_NAMES)
    export_generator(new, teacher, tmp_path / "artifacts/generator")
    folder = find_generator("one", tmp_path / "s")
    assert json.loads((folder / "generator.json").read_text())["timesteps"] == [999]
    with pytest.raises(SourceError, match="'two' is not a generator folder"):
        find_generator("two", tmp_path / "t")


def test_one_generator_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "--params", str(ROOT / "params.yaml")]) == 1
    assert capsys.readouterr().err == "error: give at least two generators\n"
