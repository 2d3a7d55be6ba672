"""Resumable state outside DVC, in a folder named by what it depends on; removed when the run succeeds.

DVC deletes a stage's outs before it runs, and keeping them (`persist`) hands one ablation's checkpoint to another.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from dmd.errors import CheckpointError
from dmd.storage.files import sha256

ON_CODE_CHANGE = "DMD_RESUME"  # continue | fresh


def scratch_root() -> Path:
    """$DMD_SCRATCH, else runs/ of the main worktree: a stage may run in a temporary copy that is deleted afterwards."""
    if chosen := os.environ.get("DMD_SCRATCH"):
        return Path(chosen).absolute()
    here = Path.cwd()
    if ".dvc" in here.parts:  # dvc exp run --temp works in <root>/.dvc/tmp/exps/...
        return Path(*here.parts[: here.parts.index(".dvc")]) / "runs"
    git = subprocess.run(
        ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"], capture_output=True, text=True, check=False
    )
    return (Path(git.stdout.strip()).parent if git.returncode == 0 else here) / "runs"


def fingerprint(params: dict[str, Any], inputs: dict[str, Path]) -> str:
    """Hash of a stage's parameters and the contents of its inputs."""
    parts = {"params": params, "inputs": {name: sha256(path) for name, path in inputs.items()}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash() -> str:
    """Hash of the project's modules that this process has imported (the schema apart: it holds no numbers)."""
    root = Path(__file__).resolve().parents[2]
    files = {Path(file).resolve() for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))}
    ours = sorted(f for f in files if f.is_relative_to(root) and ".venv" not in f.parts and f.name != "config.py")
    return hashlib.sha256("".join(sha256(f) for f in ours).encode()).hexdigest()[:16]


class Scratch:
    """The resumable state of one stage run."""

    def __init__(self, stage: str, params: dict[str, Any], inputs: dict[str, Path]) -> None:
        self.folder = scratch_root() / f"{stage}-{fingerprint(params, inputs)}"
        self.state_file = self.folder / "state.pt"
        self.code = code_hash()
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write atomically; a crash leaves the previous state."""
        tmp = self.state_file.with_suffix(".tmp")
        buffer = io.BytesIO()  # torch's own writer hides the system's error, such as a full disk, in a RuntimeError
        torch.save({**state, "code": self.code}, buffer)
        try:
            tmp.write_bytes(buffer.getbuffer())
            tmp.replace(self.state_file)
        finally:
            tmp.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The last state, or None. Raises CheckpointError if other code wrote it and nobody said what to do."""
        if not self.state_file.exists():
            return None
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as e:  # torch raises half a dozen kinds for a damaged file; all mean the same to the user
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
                f"{self.folder} holds an unfinished run of other code; set {ON_CODE_CHANGE}=continue to go on with it, "
                f"or {ON_CODE_CHANGE}=fresh to start again"
            )
        return state

    def discard(self) -> None:
        """Remove the state: the run has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)
