"""A temporary git worktree with the DVC cache of the main one: a place to run other code or parameters in."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows.pipeline.dvc_lock import remove_missing
from flows.runtime.file_lock import hold_lock
from flows.runtime.git import git

LOCK = Path("runs") / "worktrees.lock"  # git and DVC each fail now and then where two do this at once
OWNER = re.compile(r"onestep-(\d+)-")  # in a folder's name: the process that removes it


@contextlib.contextmanager
def temporary_worktree(root: Path, commit: str) -> Iterator[Path]:
    """Check out a commit; the folder is gone afterwards, however the block ends. Raises UserError."""
    main = main_worktree(root)
    if git(main, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise UserError(f"this repository has no commit {commit}; git fetch may bring it")
    place = Path(tempfile.mkdtemp(prefix=f"onestep-{os.getpid()}-")) / main.name
    try:
        with hold_lock(main / LOCK):
            _remove_abandoned(main)
            _run(main, "git", "worktree", "add", "-q", "--detach", str(place), commit)
            cache = main / _dvc(main, "cache", "dir").strip()  # an absolute path stays as it is
            _dvc(place, "cache", "dir", "-q", "--local", str(cache))
        remove_missing(place)
        yield place
    finally:
        shutil.rmtree(place.parent, ignore_errors=True)
        with hold_lock(main / LOCK):
            git(main, "worktree", "prune")


def _remove_abandoned(main: Path) -> None:
    """Worktrees of processes that were killed: nobody else removes them."""
    for line in (git(main, "worktree", "list", "--porcelain") or "").splitlines():
        place = Path(line.removeprefix("worktree "))
        owner = OWNER.match(place.parent.name)
        if line.startswith("worktree ") and owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(place.parent, ignore_errors=True)
    git(main, "worktree", "prune")


def _dvc(cwd: Path, *words: str) -> str:
    return _run(cwd, sys.executable, "-m", "dvc", *words)


def _run(cwd: Path, *words: str) -> str:
    """What the command prints. Raises UserError with its own words."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"`{' '.join(words).removeprefix(f'{sys.executable} -m ')}` failed in {cwd}: {said[-300:]}")
    return done.stdout


def check_committed(root: Path) -> str:
    """The last commit's sha. Raises UserError where there is none, or where the workspace has changed since."""
    sha = git(root, "rev-parse", "HEAD")
    if sha is None:
        raise UserError("an experiment needs git with a commit: it is made of the last one")
    own = (":(exclude)dvc.lock", ":(exclude)reports")  # what a run itself writes
    if dirty := git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *own):
        raise UserError(f"commit your changes first, experiments are made of the last commit: {dirty.split()[-1]}")
    return sha


def save_experiment(place: Path, name: str) -> None:
    """The worktree's state as a DVC experiment of its commit. One at a time: DVC fails where two do this at once.

    With what the run has written anew beside what git knows already, such as a further judge's plot.
    """
    new = (git(place, "ls-files", "--others", "--exclude-standard", "reports") or "").splitlines()
    with hold_lock(main_worktree(place) / LOCK):
        _dvc(place, "exp", "save", "-q", "-f", "-n", name, *(word for file in new for word in ("-I", file)))
