"""`python -m flows.distill`: run what has changed, publish the result to MLflow, register the generator."""

import argparse
import sys
from pathlib import Path

from dmd.config import load_params
from dmd.errors import ConfigError, UserError
from flows import start
from flows.command import exit_code
from flows.graph import ancestors, is_unchanged, stage_graph
from flows.roots import only_one
from flows.services import use_running
from flows.store import check_reachable, tracking_uri


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.distill", description=__doc__)
    parser.add_argument("--target", metavar="STAGE", help="only this stage and what it stands on; publishes nothing")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(Path.cwd(), args.target))


def _run(root: Path, target: str | None) -> int:
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    load_params(root / "params.yaml")
    use_running(root)
    graph = stage_graph(root)
    if target:
        ancestors(graph, target)  # names a stage that isn't there, before any work
    else:
        check_reachable(tracking_uri(root))
    if version := None if target else _finished(root):
        print("Nothing changed: every stage is as dvc.lock records it, and the result is published and registered.\n")
        return _end(root, version)
    with only_one(root / "runs" / "flow.lock", "another run works in this folder; wait for it, or stop it"):
        version = _flow(root, target)
    return _end(root, version) if version else 0


def _finished(root: Path) -> str | None:
    """The registered version, if there is nothing to do."""
    if not is_unchanged(root):
        return None
    from flows.register import registered  # heavy: a misspelt key is told in a second, before this

    return registered(root)


def _flow(root: Path, target: str | None) -> str | None:
    """Run the flow; the version it registered, or None for a target."""
    start.connect(root)
    from flows.pipeline import distill

    state = distill(root, target, return_state=True)  # type: ignore[call-arg]  # Prefect's own argument
    if not state.is_completed():
        raise UserError(state.message or f"the flow run ended {state.name}")
    from flows.register import registered

    return None if target else registered(root)


def _end(root: Path, version: str) -> int:
    from flows.summary import summary

    print(summary(root, version), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
