"""Where the state that outlives a run lies: always in the main worktree, so that a temporary one can be deleted."""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree


def git(root: Path, *args: str) -> str | None:
    """What a git command prints, stripped; None where there is no repository, no commit, or no git."""
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def prefect_database(root: Path) -> Path:
    return main_worktree(root) / "runs" / "prefect" / "prefect.db"


@contextlib.contextmanager
def only_one(lock: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock file; the system frees it with the process, however that ends. Without `busy`, wait for it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{busy} (pid {file.read().strip() or 'unknown'})") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
