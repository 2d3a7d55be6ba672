"""Generators are compared by paired replicates, and are loaded from folders and DVC revisions."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmd.data.splits import DIGIT_NAMES
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from evaluation.compare import main
from evaluation.comparing.candidates import Candidate
from evaluation.comparing.differences import find_differences, give_verdict, tabulate
from evaluation.comparing.page import render_comparison
from evaluation.sources import SourceError, find_generator
from evaluation.statistics.intervals import Interval, mean_interval
from tests.helpers.evaluators import candidate
from tests.helpers.projects import ROOT


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


def test_a_generator_folder_is_a_source_and_another_folder_is_an_error(teacher: Teacher, tmp_path: Path) -> None:
    generator = Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES)
    export_generator(generator, teacher, tmp_path / "g")
    assert find_generator(str(tmp_path / "g"), tmp_path / "s") == tmp_path / "g"
    with pytest.raises(SourceError, match=r"has no generator\.json"):
        find_generator(str(tmp_path), tmp_path / "s")


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
