"""Compares a project, after its faults and a last undisturbed run, with a project that had no faults."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dmd.storage.files import sha256
from flows.runtime.git import git
from tests.helpers.faults.at_work import at_work
from tests.helpers.projects import versions
from tests.helpers.servers import eventually

LEFT = 30.0  # seconds in which the processes of a run that was killed must have ended
OWN = (  # folders whose files differ between two equal runs
    ".git/",
    ".dvc/cache/",
    ".dvc/tmp/",
    "runs/mlflow/",
    "runs/prefect/",
    "runs/logs/",
    "runs/home/",
    "runs/services/",
)
HEX = re.compile(r"[0-9a-f]{8,}|\d{4}-\d\d-\d\dT?[\d:-]*")  # names that hold a hash or a time


@dataclass(frozen=True)
class State:
    """The content of a project after a run."""

    results: dict[str, str]  # hash of each result; a file or folder
    counts: list[int]  # versions of the model, MLflow runs, and those still running
    files: frozenset[str]  # with placeholders for hashes and times
    status: str  # that of DVC; a search leaves the project's own results as they are


def read_state(project: Path, results: Iterable[str], env: Mapping[str, str]) -> State:
    """Read the state of a project whose run is complete."""
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=project, env=dict(env), capture_output=True, text=True, check=False
    )
    return State(
        results={name: sha256(project / name) for name in results},
        counts=versions(project),
        files=frozenset(list_files(project)),
        status=" ".join((status.stdout + status.stderr).split()),
    )


def list_files(project: Path) -> Iterator[str]:
    """Yield the names of all files but those of git, of DVC's cache and of the servers."""
    for path in project.rglob("*"):
        name = path.relative_to(project).as_posix()
        if not name.startswith(OWN) and "__pycache__" not in name and path.is_file():
            yield HEX.sub("#", name)


def find_differences(project: Path, undisturbed: State, env: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each way in which a project differs from the undisturbed one, or is not at rest."""
    if not eventually(lambda: not at_work(project), LEFT):
        yield f"processes are left: {[' '.join(p.cmdline())[:100] for p in at_work(project)]}"
    if len(worktrees := (git(project, "worktree", "list") or "").splitlines()) > 1:
        yield f"worktrees are left: {', '.join(worktrees[1:])}"
    if absent := [name for name in undisturbed.results if not (project / name).exists()]:
        yield f"there is no {absent[0]}"
        return
    state = read_state(project, undisturbed.results, env)
    for name, digest in state.results.items():
        if digest != undisturbed.results[name]:
            yield f"{name} has other bytes"
    if state.counts != undisturbed.counts:
        yield f"versions, MLflow runs, running ones: {state.counts} in place of {undisturbed.counts}"
    if stray := sorted(state.files - undisturbed.files):
        yield f"stray files: {', '.join(stray[:5])}"
    if missing := sorted(undisturbed.files - state.files):
        yield f"missing files: {', '.join(missing[:5])}"
    if state.status != undisturbed.status:
        yield f"dvc status: {state.status[-300:]}"
