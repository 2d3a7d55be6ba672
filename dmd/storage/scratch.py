"""The folder for unfinished runs, downloads and caches. No torch is imported here, so that commands answer at once."""

import os
from pathlib import Path

from dmd.storage.worktree import main_worktree

SCRATCH = "DMD_SCRATCH"  # environment variable: this folder


def scratch_root(project: Path | None = None) -> Path:
    """Return $DMD_SCRATCH, else runs/ of the main worktree of a project, by default that of the current folder.

    A temporary worktree is deleted after its run.
    """
    if folder := os.environ.get(SCRATCH):
        return Path(folder).absolute()
    return main_worktree(project or Path.cwd()) / "runs"
