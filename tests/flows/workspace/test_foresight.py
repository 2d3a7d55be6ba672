"""A plan looks each stage up in DVC's run cache, also with inputs that other stages have yet to write."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.workspace import dvc_lock
from flows.workspace.foresight import OPEN, RESTORED, RUNS, UNCHANGED, foresee

STAGES = """
stages:
  draw:
    cmd: mkdir drawn && cp number drawn/number
    deps: [number]
    outs: [drawn]
  halve:
    cmd: expr $(cat drawn/number) / 2 > half
    deps: [drawn]
    outs: [half]
  report:
    cmd: cat half words > report.txt
    deps: [half, words]
    metrics: [report.txt: {cache: false}]
"""
NAMES = ("draw", "halve", "report")


def repro(root: Path) -> None:
    with contextlib.chdir(root), Repo() as repo:
        repo.reproduce()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that was run with the number 8 and, before it, with 4."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    Repo.init(str(tmp_path)).close()
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "words").write_text("a: 1\n")
    for number in ("4", "8"):
        (tmp_path / "number").write_text(number)
        repro(tmp_path)
    return tmp_path


def outcomes(root: Path, stale: str = "", force: str = "") -> list[str]:
    found = foresee(root, NAMES, stale.split(), dvc_lock.find_missing(root), force.split())
    return [found[name] for name in NAMES]


def test_results_of_an_earlier_run_are_found_through_all_stages(root: Path) -> None:
    assert outcomes(root) == [UNCHANGED] * 3
    (root / "number").write_text("4")
    before = sorted((file, file.stat().st_mtime_ns) for file in root.glob("*") if file.is_file())
    assert outcomes(root, "draw") == [RESTORED] * 3
    assert sorted((file, file.stat().st_mtime_ns) for file in root.glob("*") if file.is_file()) == before
    repro(root)  # DVC agrees: nothing runs
    assert (root / "half").read_text() == "2\n"


def test_what_was_never_run_runs_and_what_follows_is_not_known(root: Path) -> None:
    (root / "number").write_text("6")
    assert outcomes(root, "draw") == [RUNS, OPEN, OPEN]
    (root / "words").write_text("a: 2\n")
    assert outcomes(root, "draw report") == [RUNS, OPEN, RUNS]
    (root / "number").write_text("8")
    assert outcomes(root, "report") == [UNCHANGED, UNCHANGED, RUNS]
    assert outcomes(root, "report", force="halve") == [UNCHANGED, RUNS, RUNS]


def test_a_folder_without_outputs_uses_the_record(root: Path) -> None:
    """A worktree has dvc.lock and the cache, and no output of any stage."""
    shutil.rmtree(root / "drawn")
    (root / "half").unlink()
    assert outcomes(root) == [UNCHANGED] * 3
    (root / "number").write_text("4")
    assert outcomes(root, "draw halve report") == [RESTORED] * 3


def test_results_that_the_cache_has_lost_are_made_again(root: Path) -> None:
    """The report has no cached output, and depends on their content alone."""
    shutil.rmtree(root / ".dvc" / "cache" / "files")
    assert outcomes(root) == [RUNS, RUNS, OPEN]
    (root / "number").write_text("4")
    assert outcomes(root, "draw") == [RUNS, RUNS, OPEN]
