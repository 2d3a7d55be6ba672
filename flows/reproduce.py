"""`python -m flows.reproduce models:/NAME/3`: run what made a registered version again; are the weights the same?

Code, parameters and data are those of the version, in a temporary worktree. Every stage up to `train` really runs:
nothing is taken from DVC's cache. Exit code 0: the same to the byte; 1: not, or it could not be done.
"""

import argparse
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError
from dmd.storage.files import sha256
from flows.pipeline.worktrees import worktree
from flows.registry.record import GENERATOR
from flows.registry.store import opened
from flows.runtime.command import exit_code
from flows.runtime.process import STOP, run_streaming
from flows.services.servers import use_running

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADDRESS = re.compile(r"models:/([^/@]+)(?:/(\d+)|@(.+))")


@dataclass(frozen=True)
class Original:
    """A registered version: where its code is, its params.yaml, and its generator's files."""

    version: str
    commit: str
    params: Path
    generator: Path


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description=__doc__)
    parser.add_argument("model", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(Path.cwd(), args.model))


def _run(root: Path, model: str) -> int:
    use_running(root)
    with tempfile.TemporaryDirectory() as scratch:
        with opened(root) as client:
            original = _fetch(client, model, Path(scratch))
        _say(f"{model}: version {original.version}, commit {original.commit[:12]}; every stage up to train runs again")
        with worktree(root, original.commit) as place:
            (place / "params.yaml").write_bytes(original.params.read_bytes())
            _repeat(place, Path(scratch))
            digest, differences = sha256(place / GENERATOR), compare(original.generator, place / GENERATOR)
    if differences:
        print(f"{model}: not the same: {', '.join(differences)}")
        return 1
    print(f"{model}: the same to the byte (sha256 {digest})")
    return 0


def _fetch(client: "MlflowClient", model: str, scratch: Path) -> Original:
    """Raises UserError where the version is not there, or was made from code that no commit holds."""
    import mlflow

    if not (found := ADDRESS.fullmatch(model)):
        raise UserError(f"{model!r} is no registered version; write models:/NAME/VERSION or models:/NAME@ALIAS")
    name, number, alias = found.groups()
    version = client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
    if version.tags.get("git.dirty") != "false":
        raise UserError(f"{model} was made with changes that were not committed: nobody can check out its code")
    run = str(version.run_id)
    params = client.download_artifacts(run, "record/params.yaml", str(scratch))
    folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}", dst_path=str(scratch / "model"))
    generator = next(Path(folder).rglob("generator.json")).parent
    return Original(str(version.version), version.tags["git.sha"], Path(params), generator)


def _repeat(place: Path, scratch: Path) -> None:
    """Run the stages, whatever the cache holds; an unfinished run of the same numbers elsewhere is not continued."""
    STOP.clear()
    os.environ["DMD_SCRATCH"] = str(scratch / "unfinished")
    argv = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", "train"]
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        _say(line)

    if code := run_streaming(argv, place, hear):
        said = [line for line in lines if line.lower().startswith("error: ")]
        raise UserError(f"the stages could not be run again: {said[0] if said else f'DVC ended with {code}'}")


def compare(original: Path, again: Path) -> list[str]:
    """Files that are not in both folders with the same bytes."""
    names = {p.relative_to(folder) for folder in (original, again) for p in folder.rglob("*") if p.is_file()}
    return sorted(
        str(name)
        for name in names
        if not ((original / name).is_file() and (again / name).is_file())
        or sha256(original / name) != sha256(again / name)
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
