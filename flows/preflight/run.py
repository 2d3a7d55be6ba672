"""A run that is about to begin, as the checks see it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmd.config import Params
from dmd.storage.checkpoint import SCRATCH
from dmd.storage.worktree import main_worktree


@dataclass(frozen=True)
class Run:
    """One or more runs of the pipeline that a command is about to begin."""

    root: Path
    params: Sequence[Params]  # of each variant; of the project's folder if the run works in place
    stages: frozenset[str]  # stages that will run; others are unchanged
    in_place: bool  # whether it works in the project's folder, and not in worktrees
    publishes: bool = True  # whether it writes to MLflow
    registers: bool = True  # whether it registers a version
    at_once: int = 1  # worktrees that exist at the same time
    preset: str | None = None  # name of the preset that the parameters come from

    @property
    def scratch(self) -> Path:
        """The folder that the stages keep checkpoints, downloads and caches in."""
        return Path(os.environ.get(SCRATCH) or main_worktree(self.root) / "runs").absolute()
