"""Find a generator in a folder, a DVC revision or experiment, or a version of MLflow's registry."""

import os
import subprocess
import sys
from pathlib import Path

from dmd.errors import UserError
from dmd.redaction import redact
from dmd.storage.worktree import main_worktree

TRACKING_URI = "MLFLOW_TRACKING_URI"
GENERATOR = "artifacts/generator"  # path in dvc.yaml


class SourceError(UserError):
    """Raised if a source holds no generator."""


def find_generator(source: str, scratch: Path) -> Path:
    """Return the folder of a generator; downloads go to `scratch`.

    source: a folder, models:/NAME/VERSION or models:/NAME@ALIAS, or a revision of this repository. Raises SourceError
    if it holds no generator.
    """
    if (Path(source) / "generator.json").is_file():
        return Path(source)
    if source.startswith("models:/"):
        _run(source, "mlflow", "artifacts", "download", "-u", source, "-d", str(scratch))
        if not (files := sorted(scratch.rglob("generator.json"))):
            raise SourceError(f"{source}: the registered model holds no generator.json")
        return files[0].parent
    if Path(source).exists():
        raise SourceError(f"{source} is not a generator folder: it has no generator.json")
    out = scratch / "generator"
    _run(source, "dvc", "get", "--quiet", ".", GENERATOR, "--rev", source, "-o", str(out))
    return out


def mlflow_database(root: Path) -> Path:
    """SQLite file of the flows' runs and registered models, unless MLFLOW_TRACKING_URI names another store."""
    return main_worktree(root) / "runs" / "mlflow" / "mlflow.db"


def _environment() -> dict[str, str]:
    """The environment with MLflow's tracking URI: the user's, or the database of the flows."""
    if os.environ.get(TRACKING_URI, "").strip():
        return dict(os.environ)
    return {**os.environ, TRACKING_URI: f"sqlite:///{mlflow_database(Path.cwd())}"}


def _run(source: str, tool: str, *arguments: str) -> None:
    """Run a tool as a module of this interpreter. Raises SourceError with the last line of its output if it fails."""
    command = [sys.executable, "-m", tool, *arguments]
    process = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if process.returncode:
        lines = [line for line in (process.stderr or process.stdout).splitlines() if line.strip()]
        reason = redact(lines[-1].removeprefix("ERROR: ")) if lines else "no reason given"
        raise SourceError(
            f"{source!r} is not a generator folder, nor a registered model or revision that holds one ({reason})"
        )
