"""Reads the promises of docs/reliability.md, and finds the tests that hold them."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.planted.bug import ROOT

PAGE = "docs/reliability.md"
TEST = re.compile(r"`(test_\w+)`")
DEFINITION = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Promise:
    """A row of a table: its section, its cells but the last, and the tests of the last."""

    section: str
    text: str
    tests: tuple[str, ...]


def read_promises() -> list[Promise]:
    """Return the rows of all tables that name a test."""
    promises, section = [], ""
    for line in (ROOT / PAGE).read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and TEST.search(line):
            *cells, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            promises.append(Promise(section, ": ".join(cells), tuple(TEST.findall(tests))))
    return promises


def find_promise(beginning: str) -> Promise:
    """Return the only promise whose text begins so. Raises ValueError if there is none or more than one."""
    found = [promise for promise in read_promises() if promise.text.startswith(beginning)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows of {PAGE} begin with {beginning!r}")
    return found[0]


def bare_name(test: str) -> str:
    """Return the name of a test without its file and parameters."""
    return test.rpartition("::")[2] if "[" not in test else bare_name(test.partition("[")[0])


def find_tests(test: str) -> list[str]:
    """Return the node ids of pytest for [FILE::]NAME[PARAMETERS]: one for each file that has a test of this name."""
    if test.startswith("tests/"):
        return [test]
    return [f"{file}::{test}" for file in _files_by_test()[bare_name(test)]]


@cache
def _files_by_test() -> dict[str, list[str]]:
    files: dict[str, list[str]] = defaultdict(list)
    for file in sorted(Path(ROOT / "tests").rglob("test_*.py")):
        for name in DEFINITION.findall(file.read_text()):
            files[name].append(file.relative_to(ROOT).as_posix())
    return files
