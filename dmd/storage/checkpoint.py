"""Resumable state of a stage, in a scratch folder named by everything the run depends on; removed when it succeeds.

The folder lies outside the stage's outputs: DVC deletes those before a stage runs, and `persist: true` would hand the
checkpoint of one experiment to another.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from dmd.errors import CheckpointError
from dmd.storage.files import sha256, write_bytes
from dmd.storage.worktree import main_worktree

SCRATCH = "DMD_SCRATCH"  # environment variable: the folder for unfinished runs, downloads and caches
ON_CODE_CHANGE = "DMD_RESUME"  # environment variable: continue | fresh

ROOT = Path(__file__).resolve().parents[2]


def scratch_root() -> Path:
    """Return $DMD_SCRATCH, else runs/ of the main worktree: a temporary worktree is deleted after its run."""
    if folder := os.environ.get(SCRATCH):
        return Path(folder).absolute()
    return main_worktree(Path.cwd()) / "runs"


def fingerprint(params: dict[str, Any], inputs: dict[str, Path]) -> str:
    """Hash a stage's parameters and the contents of its inputs."""
    parts = {"params": params, "inputs": {name: sha256(path) for name, path in inputs.items()}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash() -> str:
    """Hash the project's imported modules, except those directly in dmd/, which compute no results."""
    files = {Path(file).resolve() for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))}
    code = sorted(f for f in files if f.is_relative_to(ROOT) and ".venv" not in f.parts and f.parent != ROOT / "dmd")
    return hashlib.sha256("".join(sha256(f) for f in code).encode()).hexdigest()[:16]


class Scratch:
    """The resumable state of one run of a stage."""

    def __init__(self, stage: str, params: dict[str, Any], inputs: dict[str, Path]) -> None:
        self.folder = scratch_root() / f"{stage}-{fingerprint(params, inputs)}"
        self.state_file = self.folder / "state.pt"
        self.code = code_hash()
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write the state atomically; after a crash the previous state is still there."""
        buffer = io.BytesIO()  # torch's own writer hides the system's error, such as a full disk, in a RuntimeError
        torch.save({**state, "code": self.code}, buffer)
        write_bytes(self.state_file, buffer.getbuffer())

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None.

        Raises CheckpointError if the file is damaged, or if other code wrote it and $DMD_RESUME is not set.
        """
        if not self.state_file.exists():
            return None
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as e:  # torch raises many types for a damaged file
            raise CheckpointError(
                f"{self.state_file} cannot be read ({type(e).__name__}); delete it to start afresh"
            ) from e
        choice = os.environ.get(ON_CODE_CHANGE)
        if choice == "fresh":
            self.discard()
            self.folder.mkdir(parents=True)
            return None
        if state.pop("code") != self.code and choice != "continue":
            raise CheckpointError(
                f"{self.folder} holds an unfinished run of other code; set {ON_CODE_CHANGE}=continue to continue it, "
                f"or {ON_CODE_CHANGE}=fresh to start again"
            )
        return state

    def discard(self) -> None:
        """Remove the state, after the run has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)
