"""Runs tests in a copy of the project, and says what came of it."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.planted.bug import ROOT

PATIENCE = 600  # seconds; a bug can make a test wait for ever
MEMORY = 12 * 2**30  # bytes of a process; a bug can let one fill the memory
FOUND, MISSED, SKIPPED, LEFT_OUT = "found", "MISSED", "not run: skipped", "not run: long"
NOT_LONG, ANY = "not long", ""  # marks, in place of those that pyproject.toml leaves out
LINE = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - (.*))?$", re.MULTILINE)
NO_TESTS = 5  # exit code of pytest if all tests are left out


@dataclass(frozen=True)
class Outcome:
    """The result of a run of tests: whether one of them has failed, which was the first, and how."""

    kind: str
    test: str = ""  # node id
    failure: str = ""


def copy_to(root: Path) -> None:
    """Copy the working tree without the files that git ignores into a git repository of its own."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
            (root / name).chmod((ROOT / name).stat().st_mode)
    user = ("-c", "user.name=planted", "-c", "user.email=planted@localhost")
    for words in (["init", "-q"], ["add", "-A"], [*user, "commit", "-qm", "copy"]):
        subprocess.run(["git", *words], cwd=root, check=True)


def bound_memory() -> None:
    """Let no process that this one starts take more than MEMORY."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def run_tests(root: Path, tests: Iterable[str], marks: str | None = None, patience: float | None = PATIENCE) -> Outcome:
    """Run tests in a copy of the project up to the first failure. marks: those that run; None for pyproject.toml's."""
    code, output = _call_pytest(root, ["-x", *([] if marks is None else ["-m", marks]), *tests], patience)
    if code is None:
        return Outcome(FOUND, next(iter(tests)), f"no end after {patience:g} s")
    if code == NO_TESTS:
        return Outcome(LEFT_OUT)
    if code == 0:
        return Outcome(MISSED if re.search(r"\d passed", output) else SKIPPED)
    if code == 1 and (failed := LINE.search(output)):
        return Outcome(FOUND, failed[1].removeprefix("tests/"), failed[2] or "")
    raise SystemExit(f"pytest itself failed:\n{output[-2000:]}")


def list_failures(root: Path, tests: Sequence[str], marks: str) -> set[str]:
    """Return the names of all tests that fail, without their parameters."""
    code, output = _call_pytest(root, ["-m", marks, *dict.fromkeys(tests)], PATIENCE * len(tests)) if tests else (0, "")
    if code not in (0, 1, NO_TESTS):
        raise SystemExit(f"pytest itself failed:\n{output[-2000:]}")
    return {name for failed in LINE.findall(output) for name in re.findall(r"::(test_\w+)", failed[0])}


def _call_pytest(root: Path, words: Sequence[str], patience: float | None) -> tuple[int | None, str]:
    """Return the exit code and output of pytest; the code is None if it did not end in time, and was killed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={root}.tests", *words]
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "COLUMNS": "250"},  # pytest cuts the reason of a failure at the width of the terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=patience)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        return None, process.communicate()[0]
