"""Runs tests in a copy of the project, and says what came of it."""

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.planted.bug import ROOT

PATIENCE = 600  # seconds; a bug can make a test wait for ever
MEMORY = 12 * 2**30  # bytes of a process; a bug can let one fill the memory
FOUND, MISSED = "found", "MISSED"
SKIPPED, LEFT_OUT, KILLED, NO_END = "not run: skipped", "not run: long", "not run: killed", "not run: no end"
NOT_RUN = ("not run", SKIPPED, LEFT_OUT, KILLED, NO_END)
NOT_LONG, ANY = "not long", ""  # marks, in place of those that pyproject.toml leaves out
LINE = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - (.*))?$", re.MULTILINE)
NO_TESTS, BROKEN = 5, 70  # exit codes: of pytest if all tests are left out, and of a process in which it raises
PRELOADED = ("torch", "torchvision", "diffusers.pipelines.pipeline_utils", "diffusers.models.autoencoders",
             "diffusers.models.unets", "transformers.models.clip.modeling_clip", "dvc.repo", "pandas", "scipy.linalg",
             "sklearn.datasets", "matplotlib.pyplot", "peft")  # fmt: skip


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
    if code is None or code < 0:  # on a machine that is busy, a test without a bug may take as long
        return Outcome(NO_END if code is None else KILLED)
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
    with tempfile.TemporaryFile() as output:
        for stream in (sys.stdout, sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        if (pid := os.fork()) == 0:
            os._exit(_be_pytest(root, words, output.fileno()))
        code = _wait(pid, patience)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def preload() -> None:
    """Import the packages that take longest, so that each run of pytest, a copy of this process, begins with them.

    Prefect and MLflow are not among them: they read the variables that `flows` sets when they are imported.
    """
    for name in PRELOADED:
        importlib.import_module(name)


def _be_pytest(root: Path, words: Sequence[str], output: int) -> int:
    """Run pytest in this process, which has begun as a copy, with the modules of the project in `root`."""
    try:
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a test of this module runs in pytest itself
        os.chdir(root)
        os.environ["COLUMNS"] = "250"  # pytest cuts the reason of a failure at the width of the terminal
        sys.path[:] = [str(root), *(place for place in sys.path if place and Path(place) != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        code = int(pytest.main(["-p", "no:cacheprovider", f"--basetemp={root}.tests", *words]))
        sys.stdout.flush()
        return code
    except BaseException:
        traceback.print_exc()
        return BROKEN


def _wait(pid: int, patience: float | None) -> int | None:
    """Return the exit code of a process; None if it does not end in time, and is killed with all that it started."""
    end = time.monotonic() + patience if patience else float("inf")
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    for child in psutil.Process(pid).children(recursive=True):
        child.kill()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
