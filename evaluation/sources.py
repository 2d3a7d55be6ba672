"""Where a generator may come from: a folder, a DVC revision or experiment, a version in MLflow's registry."""

import os
import subprocess
import sys
from pathlib import Path

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree

STORE = "MLFLOW_TRACKING_URI"
GENERATOR = "artifacts/generator"  # dvc.yaml's name for it


class SourceError(UserError):
    """A generator that cannot be had."""


def find_generator(source: str, scratch: Path) -> Path:
    """The folder of a generator; what has to be fetched is put under `scratch`.

    source: a folder, models:/NAME/VERSION or models:/NAME@ALIAS, or a revision of this repository.
    Raises SourceError with one line that says what was tried.
    """
    if (Path(source) / "generator.json").is_file():
        return Path(source)
    if source.startswith("models:/"):
        _run(source, "mlflow", "artifacts", "download", "-u", source, "-d", str(scratch))
        if not (found := sorted(scratch.rglob("generator.json"))):
            raise SourceError(f"{source}: the registered model holds no generator.json")
        return found[0].parent
    if Path(source).exists():
        raise SourceError(f"{source} is not a generator folder: it has no generator.json")
    out = scratch / "generator"
    _run(source, "dvc", "get", "--quiet", ".", GENERATOR, "--rev", source, "-o", str(out))
    return out


def _environment() -> dict[str, str]:
    """With MLflow's store: the one that the user names, or the database that the flows write, in the main worktree."""
    if os.environ.get(STORE, "").strip():
        return dict(os.environ)
    return {**os.environ, STORE: f"sqlite:///{main_worktree(Path.cwd()) / 'runs' / 'mlflow' / 'mlflow.db'}"}


def _run(source: str, tool: str, *words: str) -> None:
    command = [sys.executable, "-m", tool, *words]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = said[-1].removeprefix("ERROR: ") if said else "no reason given"
        raise SourceError(
            f"{source!r} is no generator folder, and no registered model or revision that has one ({reason})"
        )
