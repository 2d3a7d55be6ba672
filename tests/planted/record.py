"""The table of the protections: for each, the promise that it keeps, and the test that failed without it."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.planted.bug import Protection
from tests.planted.promises import find_promise, find_tests
from tests.planted.runs import Outcome

NEVER = Outcome("not run")
COLUMNS = ("section", "promise", "taken out", "file", "test", "outcome", "failure", "digest")


def read_record(file: Path) -> dict[str, Outcome]:
    """Return the outcomes in a table by the digest of the protection; none if there is no file."""
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["digest"]: Outcome(row["outcome"], row["test"], row["failure"]) for row in rows}


def write_record(file: Path, protections: Iterable[Protection], outcomes: Mapping[str, Outcome]) -> None:
    """Write a row for each protection, in the order of docs/reliability.md; one without an outcome is "not run"."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for protection in protections:
        outcome, promise = outcomes.get(protection.digest, NEVER), find_promise(protection.promise)
        named = outcome.test or find_tests(protection.test)[0].removeprefix("tests/")
        row = (promise.section, promise.text, protection.name, protection.file, named)
        table.writerow((*row, outcome.kind, outcome.failure, protection.digest))
    file.write_text(text.getvalue(), encoding="utf-8")
