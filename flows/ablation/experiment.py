"""DVC experiments of an ablation's members: run one in a temporary copy of the project, read its files from git."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from dvc.repo.experiments.refs import WORKSPACE_STASH

from dmd.errors import UserError
from evaluation.metrics.schema import Metrics, parse_model
from flows.ablation.plan import Member
from flows.registry.result import METRICS
from flows.runtime.git import git
from flows.runtime.process import run_streaming
from flows.workspace import rwlock

Log = Callable[[str], None]

ATTEMPTS = 2
START_UP = 60.0  # seconds during which a new temporary folder may not yet have a process in it


class MemberError(UserError):
    """A member has failed; the message is the reason."""


def remove_stale(root: Path) -> None:
    """Remove the queue entry and the copy of the project that a killed `dvc exp run --temp` leaves behind.

    The next `dvc exp run --temp` would execute that entry.
    """
    git(root, "update-ref", "-d", WORKSPACE_STASH)
    working_folders = [p.info["cwd"] or "" for p in psutil.process_iter(["cwd"])]
    for folder in (root / ".dvc" / "tmp" / "exps" / "standalone").glob("tmp*"):
        in_use = any(Path(cwd).is_relative_to(folder) for cwd in working_folders)
        if not in_use and time.time() - folder.stat().st_mtime > START_UP:
            shutil.rmtree(folder, ignore_errors=True)


def read(root: Path, member: Member, path: Path) -> bytes | None:
    """Content of a file in the member's experiment at the present commit; None if there is no such file."""
    head = git(root, "rev-parse", "HEAD") or ""
    revision = f"refs/exps/{head[:2]}/{head[2:]}/{member.experiment}"
    done = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def load_metrics(root: Path, member: Member) -> Metrics | None:
    """Measures of the experiment; None if it does not exist. Raises EvaluatorError if they cannot be read."""
    metrics = read(root, member, METRICS)
    return None if metrics is None else parse_model(Metrics, metrics, f"{METRICS} of {member.experiment}")


def exists(root: Path, member: Member) -> bool:
    """Whether the present commit has the member's experiment with its measures."""
    return read(root, member, METRICS) is not None


def run(root: Path, member: Member, log: Log) -> None:
    """Run `dvc exp run --temp` and hand its output to `log` line by line. Raises MemberError if a stage fails.

    DVC processes that start at the same time share one queue. Sometimes a process executes the queue entry of another
    process, which then ends without an error and without an experiment. In that case this function runs it again.
    """
    sets = [word for key, value in member.changes.items() for word in ("-S", f"{key}={json.dumps(value)}")]
    argv = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", member.experiment, *sets]
    for _ in range(ATTEMPTS):
        lines: list[str] = []

        def handle(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            log(line)

        if note := rwlock.repair(root):
            log(note)
        code = run_streaming(argv, root, handle)
        if exists(root, member):
            return
        if code:
            raise MemberError(_reason(lines, code))
    raise MemberError(f"DVC ended without an error and without an experiment, {ATTEMPTS} times; run the ablation again")


def _reason(lines: list[str], code: int) -> str:
    """The stage's error lines, else DVC's error lines, else the last line of output."""
    for prefix in ("error: ", "ERROR: "):
        if errors := [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]:
            return "; ".join(errors)
    return next((line for line in reversed(lines) if line.strip()), f"DVC ended with exit code {code}")
