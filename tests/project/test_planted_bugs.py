"""Each bug can still be planted, and each promise has a bug that breaks it.

`python -m tests.planted` checks that the tests find them.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.planted.algorithm import BUGS
from tests.planted.bug import ROOT, Bug, Protection
from tests.planted.promises import Promise, bare_name, find_promise, find_tests, read_promises
from tests.planted.protections import PROTECTIONS
from tests.planted.record import NEVER, read_record, write_record
from tests.planted.runs import (
    ANY,
    FOUND,
    LEFT_OUT,
    MISSED,
    NO_END,
    NOT_LONG,
    NOT_RUN,
    SKIPPED,
    Outcome,
    list_failures,
    run_tests,
)

RECORD = ROOT / "records/protections.csv"


@pytest.mark.parametrize("bug", [*BUGS, *PROTECTIONS], ids=lambda bug: bug.name)
def test_a_bug_can_still_be_planted(bug: Bug) -> None:
    assert bug.right != bug.wrong and (ROOT / bug.file).read_text().count(bug.right) == 1


@pytest.mark.parametrize("promise", read_promises(), ids=lambda promise: promise.text[:40])
def test_each_promise_has_a_bug_that_breaks_it(promise: Promise) -> None:
    bugs = [bug for bug in PROTECTIONS if find_promise(bug.promise) == promise]
    assert bugs and {bare_name(bug.test) for bug in bugs} <= set(promise.tests)


def test_every_table_of_the_page_is_read() -> None:
    """A row that names a test in another way would be left out."""
    rows = re.findall(r"^\|.*\btest_\w+.*\|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    assert len(read_promises()) == len(rows) > 80
    assert [test for promise in read_promises() for test in promise.tests if not find_tests(test)] == []


def test_protections_have_names_and_digests_of_their_own() -> None:
    for values in ([bug.name for bug in PROTECTIONS], [bug.digest for bug in PROTECTIONS]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_the_record_has_a_row_for_each_protection_and_none_that_was_missed() -> None:
    """`python -m tests.planted --protections --out records/protections.csv` writes it."""
    with RECORD.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["taken out"], row["digest"]) for row in rows] == [(bug.name, bug.digest) for bug in PROTECTIONS]
    assert {row["outcome"] for row in rows} <= {FOUND, *NOT_RUN}


def test_a_record_keeps_outcomes_until_the_bug_changes(tmp_path: Path) -> None:
    first, second = PROTECTIONS[:2]
    outcome = Outcome(FOUND, "a.py::test_a", "DID NOT RAISE")
    write_record(tmp_path / "a.csv", [first, second], {first.digest: outcome})
    read = read_record(tmp_path / "a.csv")
    assert (read[first.digest], read[second.digest]) == (outcome, Outcome(NEVER.kind, read[second.digest].test))
    changed = Protection(first.name, first.file, first.right, "else", promise=first.promise, test=first.test)
    write_record(tmp_path / "a.csv", [changed], read)
    assert [outcome.kind for outcome in read_record(tmp_path / "a.csv").values()] == ["not run"]
    assert read_record(tmp_path / "none.csv") == {}


TESTS = """
import time, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2, "two words"
@pytest.mark.skip
def test_is_skipped(): pass
@pytest.mark.long
def test_is_long(): assert False
def test_waits(): time.sleep(60)
@pytest.mark.parametrize("case", ["a b"])
def test_of_a_case(case): raise ValueError(case)
"""


def test_a_run_says_what_came_of_the_tests(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -m 'not slow' -q\nmarkers =\n    slow\n    long\n")
    (tmp_path / "test_a.py").write_text(TESTS)

    def run(test: str, marks: str = NOT_LONG, patience: float = 60) -> tuple[str, str, str]:
        outcome = run_tests(tmp_path, [f"test_a.py::{test}"], marks, patience)
        return outcome.kind, outcome.test, outcome.failure

    assert run("test_passes") == (MISSED, "", "") and run("test_is_skipped") == (SKIPPED, "", "")
    kind, test, failure = run("test_fails")
    assert (kind, test) == (FOUND, "test_a.py::test_fails") and "two words" in failure
    assert run("test_is_long") == (LEFT_OUT, "", "") and run("test_is_long", ANY)[0] == FOUND
    assert run("test_waits", patience=3) == (NO_END, "", "")
    assert run("test_of_a_case[a b]") == (FOUND, "test_a.py::test_of_a_case[a b]", "ValueError: a b")
    names = [f"test_a.py::{name}" for name in ("test_passes", "test_of_a_case", "test_is_long")]
    assert list_failures(tmp_path, names, NOT_LONG) == {"test_of_a_case"}
