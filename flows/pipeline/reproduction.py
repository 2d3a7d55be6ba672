"""Run the pipeline of a registered version again and compare the generators byte by byte.

A temporary worktree holds the version's code, parameters and data. Every stage up to `train` runs; DVC's cache is not
used.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError
from dmd.storage.files import sha256
from flows.pipeline.worktrees import temporary_worktree
from flows.registry.address import download_generator, find_version
from flows.registry.result import GENERATOR
from flows.registry.store import open_store
from flows.runtime.process import STOP, run_streaming
from flows.services.servers import use_local_servers

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Original:
    """A registered version: the commit of its code, its params.yaml and the folder of its generator."""

    version: str
    commit: str
    params: Path
    generator: Path


@dataclass(frozen=True)
class Reproduction:
    """The generator that the second run made: its sha256, and the files in which it differs from the original."""

    sha256: str
    differences: list[str]


def reproduce(root: Path, model: str) -> Reproduction:
    """Run the pipeline of `model` again (models:/NAME/VERSION or models:/NAME@ALIAS) and compare the generators.

    Raises UserError if the version does not exist, its code was not committed, or a stage fails.
    """
    use_local_servers(root)
    with tempfile.TemporaryDirectory() as scratch:
        with open_store(root) as client:
            original = fetch_original(client, model, Path(scratch))
        _log(f"{model}: version {original.version}, commit {original.commit[:12]}; running every stage up to train")
        with temporary_worktree(root, original.commit) as place:
            (place / "params.yaml").write_bytes(original.params.read_bytes())
            _run_stages(place, Path(scratch))
            generator = place / GENERATOR
            return Reproduction(sha256(generator), find_differences(original.generator, generator))


def fetch_original(client: "MlflowClient", model: str, scratch: Path) -> Original:
    """Download a version into `scratch`. Raises UserError for a malformed address or code that was not committed."""
    version = find_version(client, model)
    if version.tags.get("git.dirty") != "false":
        raise UserError(f"{model} was made from uncommitted changes, so its code can't be checked out")
    params = client.download_artifacts(str(version.run_id), "record/params.yaml", str(scratch))
    generator = download_generator(version, scratch)
    return Original(str(version.version), version.tags["git.sha"], Path(params), generator)


def _run_stages(place: Path, scratch: Path) -> None:
    """Run every stage up to `train`, without DVC's cache and without checkpoints of other runs."""
    STOP.clear()
    os.environ["DMD_SCRATCH"] = str(scratch / "unfinished")
    argv = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", "train"]
    lines: list[str] = []

    def handle(line: str) -> None:
        lines.append(line)
        _log(line)

    if code := run_streaming(argv, place, handle):
        errors = [line for line in lines if line.lower().startswith("error: ")]
        raise UserError(f"a stage failed: {errors[0] if errors else f'DVC ended with exit code {code}'}")


def find_differences(original: Path, copy: Path) -> list[str]:
    """Return the sorted relative paths of the files that differ between the folders or exist in only one of them."""
    names = {p.relative_to(folder) for folder in (original, copy) for p in folder.rglob("*") if p.is_file()}
    return sorted(
        str(name)
        for name in names
        if not ((original / name).is_file() and (copy / name).is_file())
        or sha256(original / name) != sha256(copy / name)
    )


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
