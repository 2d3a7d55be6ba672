"""The folders that a run writes into: each must be writable before the first stage starts."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dmd.storage.scratch import SCRATCH
from dmd.storage.worktree import main_worktree
from flows.preflight.run import Run
from flows.registry.store import database, tracking_uri
from flows.workspace.cache import find_cache


def check_places(run: Run) -> Iterator[str]:
    """Yield a line for each folder that cannot be written, and for a dvc.lock that cannot."""
    for folder, purpose, remedy in list_places(run):
        if reason := _try_to_write(folder):
            yield f"{folder}: {purpose} cannot be written there ({reason}); {remedy}"
    lock = run.root / "dvc.lock"
    if run.in_place and lock.exists() and not os.access(lock, os.W_OK):
        yield f"{lock}: the run cannot record its results in this file; chmod u+w it"


def list_places(run: Run) -> Iterator[tuple[Path, str, str]]:
    """Yield each folder, what the run writes there, and what to do if it cannot be written."""
    main = main_worktree(run.root)
    here = "make it writable, or run in a copy of the project that is"
    yield Path(tempfile.gettempdir()), "temporary files", "set TMPDIR to a folder that is writable"
    yield run.scratch, "checkpoints and downloads", f"make it writable, or set {SCRATCH} to a folder that is"
    yield main / "runs", "locks, logs and databases", here
    yield find_cache(main), "results", "make it writable, or choose another one by dvc cache dir --local"
    yield run.root / ".dvc" / "tmp", "DVC's locks", here
    if run.in_place:
        yield from ((run.root / name, "results", here) for name in ("artifacts", "reports", "."))
    else:
        yield main / ".git", "experiments", here
    if run.publishes and (file := database(tracking_uri(run.root))):
        yield file.parent, "MLflow's database", "make it writable, or set MLFLOW_TRACKING_URI to another store"


def _try_to_write(folder: Path) -> str | None:
    """Return why no file can be written into a folder, which may not exist yet; None if it can.

    A file is written, since permissions alone do not tell, as on a mount that is read-only.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as e:
        return e.strerror or str(e)
