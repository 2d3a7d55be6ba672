"""Plant bugs one at a time in a copy of the project, and check that the tests find each bug.

    python -m tests.planted                        # bugs of the algorithm, about half a minute each
    python -m tests.planted guidance               # those with this word in their name
    python -m tests.planted --protections [WORDS]  # without a protection, the test of its promise must fail
    python -m tests.planted --protections --out records/protections.csv

The output is a table with the first test that fails for each bug, or MISSED. Tests that take minutes, those marked
`long`, run with --long only; their protections are "not run" without it. With --out, outcomes of an earlier call are
kept in the file, unless the bug has changed; --rest runs only those that have none.
tests/project/test_planted_bugs.py checks that each bug can be planted.
"""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tests.planted.algorithm import BUGS, SUITE
from tests.planted.bug import Bug, Protection
from tests.planted.promises import bare_name, find_tests
from tests.planted.protections import PROTECTIONS
from tests.planted.record import read_record, write_record
from tests.planted.runs import (
    ANY,
    FOUND,
    MISSED,
    NOT_LONG,
    PATIENCE,
    Outcome,
    bound_memory,
    copy_to,
    list_failures,
    preload,
    run_tests,
)

B = TypeVar("B", bound=Bug)
FAILS = Outcome("fails without it")
RAN = (FOUND, MISSED, FAILS.kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.planted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", default=[""], help="plant only bugs with one of these in their name")
    parser.add_argument("--protections", action="store_true", help="take out the protections of docs/reliability.md")
    parser.add_argument("--long", action="store_true", help="run tests that take minutes, too")
    parser.add_argument("--rest", action="store_true", help="only those whose outcome is not in the file yet")
    parser.add_argument("--sound", action="store_true", help="do not run the tests of protections without a bug first")
    parser.add_argument("--out", type=Path, help="file for the table of the protections, as CSV")
    args = parser.parse_args()
    bound_memory()
    preload()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        copy_to(root)
        if args.protections:
            chosen = choose(PROTECTIONS, args.words)
            if args.out and args.rest:
                ran = [digest for digest, outcome in read_record(args.out).items() if outcome.kind in RAN]
                chosen = [bug for bug in chosen if bug.digest not in ran]
            outcomes = take_out(root, chosen, ANY if args.long else NOT_LONG, args.out, not args.sound)
        else:
            outcomes = plant(root, choose(BUGS, args.words))
    bad = [outcome for outcome in outcomes if outcome.kind in (MISSED, FAILS.kind)]
    raise SystemExit(f"{len(bad)} of {len(outcomes)} were missed" if bad else 0)


def choose(bugs: Sequence[B], words: Sequence[str]) -> list[B]:
    """Return the bugs that have a word in their name, in the order of the words."""
    return list(dict.fromkeys(bug for word in words for bug in bugs if word in bug.name))


def plant(root: Path, bugs: Sequence[Bug]) -> list[Outcome]:
    """Plant bugs of the algorithm, each in turn, and run all tests of the algorithm."""
    if (sound := run_tests(root, SUITE, patience=None)).kind != MISSED:
        raise SystemExit(f"without any bug, {sound.test} fails; make the tests pass first")
    print("| bug | found by |\n|---|---|", flush=True)
    outcomes = []
    for bug in bugs:
        outcomes.append(with_bug(root, bug, SUITE, None, patience=None))
        print(f"| {bug.name} | {outcomes[-1].test or outcomes[-1].kind} |", flush=True)
    return outcomes


def take_out(
    root: Path, protections: Sequence[Protection], marks: str, out: Path | None, checks: bool
) -> list[Outcome]:
    """Take out protections, each in turn, and run the test of each.

    marks: tests that run. out: the table to write. checks: run all tests without a bug first.
    """
    recorded = read_record(out) if out else {}
    tests = [test for bug in protections for test in find_tests(bug.test)]
    failing = list_failures(root, tests, marks) if checks else set[str]()
    print("| protection | outcome | test | failure |\n|---|---|---|---|", flush=True)
    outcomes = []
    for bug in protections:
        sound = bare_name(bug.test) not in failing
        outcome = with_bug(root, bug, find_tests(bug.test), marks) if sound else FAILS
        outcomes.append(outcome)
        print(f"| {bug.name} | {outcome.kind} | {outcome.test} | {outcome.failure} |", flush=True)
        if outcome.kind in RAN or bug.digest not in recorded:
            recorded[bug.digest] = outcome
        if out:
            write_record(out, PROTECTIONS, recorded)
    return outcomes


def with_bug(
    root: Path, bug: Bug, tests: Sequence[str], marks: str | None, patience: float | None = PATIENCE
) -> Outcome:
    """Run tests while the bug is in the copy of the project. A path in the failure loses its temporary folder."""
    file = root / bug.file
    sound = file.read_bytes()
    bug.plant(root)
    outcome = run_tests(root, tests, marks, patience)
    file.write_bytes(sound)
    failure = re.sub(rf"{re.escape(str(root.parent))}\S*?/(?=[\w.]+\b)", ".../", outcome.failure)
    return Outcome(outcome.kind, outcome.test, failure[:160])


if __name__ == "__main__":
    main()
