"""Copies of the results of experiments in runs/experiments/NAME: the worktree of an experiment is removed."""

import shutil
from pathlib import Path

from dmd.errors import UserError
from dmd.storage.files import new_folder
from dmd.storage.worktree import main_worktree
from flows.registry.result import DETAILS, GENERATOR, LOSSES, METRICS, REPORT, SAMPLES, TIMING
from flows.runtime.errors import one_line

FOLDER = Path("runs") / "experiments"
FILES = (METRICS, DETAILS, TIMING, LOSSES, SAMPLES, REPORT, Path("params.yaml"))
MOST_COPIED = 2**30  # bytes of a generator; a larger one stays in DVC's cache alone


def result_folder(root: Path, experiment: str) -> Path:
    """The folder for the result of an experiment, whose files have the same paths there as in the project."""
    return main_worktree(root) / FOLDER / experiment


def keep_result(place: Path, experiment: str) -> Path:
    """Copy the measures, the report and the generator out of a worktree, and return their folder.

    Raises UserError if a file cannot be read or written, as on a full disk.
    """
    out = result_folder(place, experiment)
    try:
        with new_folder(out) as folder:
            for path in FILES:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(place / path, folder / path)
            size = sum(file.stat().st_size for file in (place / GENERATOR).rglob("*"))
            if size <= MOST_COPIED:
                shutil.copytree(place / GENERATOR, folder / GENERATOR)
    except OSError as e:
        reason = e.strerror or one_line(e)[:300]  # shutil's own errors have no `strerror`
        raise UserError(
            f"the result can't be copied to {out} ({reason}): make room there, or make it writable, and run the same "
            "command again, which repeats no stage"
        ) from e
    return out


def drop_result(root: Path, experiment: str) -> None:
    """Remove the result that an earlier run of the experiment has left."""
    shutil.rmtree(result_folder(root, experiment), ignore_errors=True)


def fetch_generator(experiment: str) -> str:
    """The command that takes the generator of an experiment from DVC's cache."""
    return f"dvc get . {GENERATOR} --rev {experiment} -o {FOLDER / experiment / GENERATOR}"
