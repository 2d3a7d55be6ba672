"""A member of an ablation as a DVC experiment: run in a copy of its own, found again and read in git."""

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
from flows.ablation.plan import Member
from flows.registry.result import METRICS
from flows.runtime.process import run_streaming
from flows.runtime.roots import git

Log = Callable[[str], None]

ATTEMPTS = 2
FRESH = 60.0  # seconds in which a temporary folder may not yet have its process in it


class MemberError(UserError):
    """A member has failed; the message is the reason."""


def clear_stale(root: Path) -> None:
    """Remove what a killed `dvc exp run --temp` left: its request, which the next one would take up, and its copy."""
    git(root, "update-ref", "-d", WORKSPACE_STASH)
    where = [p.info["cwd"] or "" for p in psutil.process_iter(["cwd"])]
    for folder in (root / ".dvc" / "tmp" / "exps" / "standalone").glob("tmp*"):
        in_use = any(Path(cwd).is_relative_to(folder) for cwd in where)
        if not in_use and time.time() - folder.stat().st_mtime > FRESH:
            shutil.rmtree(folder, ignore_errors=True)


def read(root: Path, member: Member, path: Path) -> bytes | None:
    """A file as the experiment of the present commit has it; None where there is none."""
    head = git(root, "rev-parse", "HEAD") or ""
    revision = f"refs/exps/{head[:2]}/{head[2:]}/{member.experiment}"
    done = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def is_there(root: Path, member: Member) -> bool:
    """Whether the present commit has this experiment, with its measures."""
    return read(root, member, METRICS) is not None


def run(root: Path, member: Member, log: Log) -> None:
    """`dvc exp run --temp`. DVC throws a failed one away, so its last words are told here, as MemberError.

    Processes that start at once share DVC's list of requests: rarely one takes up what the other has asked for, and
    the other ends well without an experiment. Then it is asked for again.
    """
    sets = [word for key, value in member.changes.items() for word in ("-S", f"{key}={json.dumps(value)}")]
    argv = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", member.experiment, *sets]
    for _ in range(ATTEMPTS):
        lines: list[str] = []

        def hear(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            log(line)

        code = run_streaming(argv, root, hear)
        if is_there(root, member):
            return
        if code:
            raise MemberError(_reason(lines, code))
    raise MemberError("DVC ended well, but made no experiment")


def _reason(lines: list[str], code: int) -> str:
    """The stage's own words; failing those, what DVC says; failing those, the last line."""
    for prefix in ("error: ", "ERROR: "):
        if own := [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]:
            return "; ".join(own)
    return next((line for line in reversed(lines) if line.strip()), f"DVC ended with exit code {code}")
