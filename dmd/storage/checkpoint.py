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
from dmd.storage.seal import is_intact, is_sealed, remove_sealed, report_damage, seal_of, write_seal
from dmd.storage.worktree import main_worktree

SCRATCH = "DMD_SCRATCH"  # environment variable: the folder for unfinished runs, downloads and caches
ON_CODE_CHANGE = "DMD_RESUME"  # environment variable: continue | fresh
STATE = "state"  # checkpoints are STATE-000001.pt, STATE-000002.pt, ...
KEPT = 2  # checkpoints; the older one is used if the last one is damaged

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
    """The resumable state of one run of a stage: the last two checkpoints, each with its checksum."""

    def __init__(self, stage: str, params: dict[str, Any], inputs: dict[str, Path]) -> None:
        self.folder = scratch_root() / f"{stage}-{fingerprint(params, inputs)}"
        self.code = code_hash()
        self.folder.mkdir(parents=True, exist_ok=True)

    def checkpoints(self) -> list[Path]:
        """Return the files of the complete checkpoints, the oldest first."""
        return sorted(file for file in self.folder.glob(f"{STATE}-*.pt") if is_sealed(file))

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint atomically and remove all but the last KEPT."""
        earlier = self.checkpoints()
        number = int(earlier[-1].stem.removeprefix(f"{STATE}-")) + 1 if earlier else 1
        file = self.folder / f"{STATE}-{number:06d}.pt"
        buffer = io.BytesIO()  # torch's own writer hides the system's error, such as a full disk, in a RuntimeError
        torch.save({**state, "code": self.code, "run": self.folder.name}, buffer)
        seal_of(file).unlink(missing_ok=True)
        write_bytes(file, buffer.getbuffer())
        write_seal(file)
        for old in self.checkpoints()[:-KEPT]:
            remove_sealed(old)

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last intact checkpoint; None if there is no checkpoint.

        Raises CheckpointError if every checkpoint is damaged, or if other code wrote it and $DMD_RESUME is not set.
        """
        choice = os.environ.get(ON_CODE_CHANGE)
        if choice == "fresh":
            self.discard()
            self.folder.mkdir(parents=True)
        files, damaged, state = self.checkpoints(), list[Path](), None
        while files and state is None:
            if (state := self._read(files[-1])) is None:
                damaged.append(files.pop())
        if damaged and state is None:
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(file.name for file in damaged)}); "
                f"set {ON_CODE_CHANGE}=fresh to start again"
            )
        for file in damaged:
            report_damage(file, f"it is removed, and the run continues from {files[-1].name}")
            remove_sealed(file)
        if state is None:
            return None
        if state.pop("code") != self.code and choice != "continue":
            raise CheckpointError(
                f"{self.folder} holds an unfinished run of other code; set {ON_CODE_CHANGE}=continue to continue it, "
                f"or {ON_CODE_CHANGE}=fresh to start again"
            )
        return state

    def _read(self, file: Path) -> dict[str, Any] | None:
        """Return the state in a file; None if the file is damaged or belongs to another run."""
        if not is_intact(file):
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many types for a file that it did not write
            return None
        return state if state.pop("run", None) == self.folder.name else None

    def discard(self) -> None:
        """Remove the state, after the run has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)
