"""`python -m flows.distill`: run what has changed, publish the result to MLflow, register the generator."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmd.debug import CommandParser
from dmd.errors import ConfigError, UserError
from flows.runtime.command import run_command
from flows.runtime.errors import error_of

if TYPE_CHECKING:
    from flows.pipeline.request import Request


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = CommandParser(prog="python -m flows.distill", description=__doc__)
    parser.add_argument(
        "--preset", metavar="NAME", help="a file of experiments/presets/; the run becomes a DVC experiment"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="such as method.critic_turns=10"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[], help="values of train.seed, one experiment each"
    )
    parser.add_argument("--force", metavar="STAGE", nargs="+", default=[], help="stages that run even if unchanged")
    parser.add_argument("--no-register", action="store_true", help="publish the result without registering a version")
    parser.add_argument(
        "--target",
        metavar="STAGE",
        help="only this stage and the stages it depends on; publishes no result, saves no experiment",
    )
    parser.add_argument(
        "--from-commit",
        action="store_true",
        help="with --preset, --set or --seeds: leave out what has changed in this folder since the last commit",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument("--on", metavar="GPUS", help="with --dry-run: memory and time on these, such as h100x8")
    args = parser.parse_args(argv)
    return run_command(lambda: _distill(Path.cwd(), args))


def _distill(root: Path, args: argparse.Namespace) -> int:
    """Check the request, run the flow and print the result; skip the flow if nothing has changed."""
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    # These imports take a second; `--help` does not need them.
    from flows.pipeline.request import read_request
    from flows.preflight.checks import begin_before, check_before
    from flows.runtime.moved import list_leftovers
    from flows.services.prefect_setup import begin_to_set_up_prefect
    from flows.services.servers import use_local_servers

    for line in list_leftovers(root):
        print(f"note: {line}", file=sys.stderr)
    if args.on and not args.dry_run:
        raise ConfigError("--on: only a plan is made for other GPUs; add --dry-run")
    overrides = parse_overrides(args.set)
    from_commit = args.from_commit or args.dry_run  # a plan of experiments is that of the last commit in any case
    request = read_request(root, args.preset, overrides, args.seeds, args.force, args.target, from_commit)
    if args.from_commit and not request.variants:
        raise ConfigError("--from-commit: only runs with --preset, --set or --seeds start from the last commit")
    if args.dry_run:
        return _print_plan(request, args.on)
    use_local_servers(root)
    if version := _find_finished(request, args.no_register):
        _settle_abandoned(root)
        print("Nothing changed: every stage is as dvc.lock records it, and the result is published and registered.\n")
        return _print_summary(root, version)
    request.find_commit()
    run = request.describe(registers=not args.no_register)
    begin_before(run)  # some checks take the longest: they import torch while Prefect and its server start
    finish_setup = begin_to_set_up_prefect(root)
    _import_flow()
    check_before(run)
    finish_setup()
    changes = {"preset": args.preset, "overrides": overrides, "seeds": args.seeds, "from_commit": from_commit}
    settings = {"force": args.force, "register_model": not args.no_register, "target": args.target}
    try:
        message = _run_flow({**changes, **settings})
    except UserError:
        if not args.target:
            _print_experiments(request, "")  # those that have a result
        raise
    if args.target:
        print(message, flush=True)
        return 0
    if request.variants:
        return _print_experiments(request, message)
    return _print_summary(root, None if args.no_register else _find_registered(root))


def _print_plan(request: "Request", on: str | None) -> int:
    """Print what would run, and what it would cost. on: GPUs to estimate for."""
    from flows.pipeline.dry_run import plan

    request.check_methods()
    print(plan(request.root, request.variants, request.force, request.target, request.preset, on), flush=True)
    return 0


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Parse KEY=VALUE words, the values as YAML. Raises ConfigError."""
    from dmd.yaml_files import parse_yaml

    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {word}: write KEY=VALUE, such as method.critic_turns=10")
        overrides[key] = parse_yaml(value, f"--set {word}")
    return overrides


def _find_finished(request: "Request", no_register: bool) -> str | None:
    """Return the registered version of the workspace's result if the run would change nothing, else None."""
    from flows.workspace.graph import is_up_to_date

    if request.variants or request.target or request.force or no_register or not is_up_to_date(request.root):
        return None
    return _find_registered(request.root)


def _find_registered(root: Path) -> str | None:
    from flows.registry.versions import find_registered  # imports MLflow, which takes seconds

    return find_registered(root)


def _settle_abandoned(root: Path) -> None:
    from flows.live.sending import settle_abandoned

    settle_abandoned(root)


def _import_flow() -> None:
    """Import the flow, which takes seconds, while the server starts."""
    import flows.pipeline.flow  # noqa: F401


def _run_flow(parameters: dict[str, Any]) -> str:
    """Run the flow and return the message of its final state. Raises UserError if it does not complete."""
    from flows.pipeline.flow import distill
    from flows.services.prefect_server import calling_a_flow

    with calling_a_flow():
        state = distill(**parameters, return_state=True)
    if not state.is_completed():
        raise error_of(state)
    return state.message or ""


def _print_experiments(request: "Request", message: str) -> int:
    """Print the outcome of each experiment that has a result, and the message of the flow."""
    from flows.pipeline.experiments import result_folder
    from flows.pipeline.summary import summarize_experiments

    names = [v.experiment for v in request.variants if result_folder(request.root, v.experiment).is_dir()]
    if names:
        print(f"{summarize_experiments(request.root, names)}\n\n{message}".rstrip(), flush=True)
    return 0


def _print_summary(root: Path, version: str | None) -> int:
    from flows.pipeline.summary import summarize

    print(summarize(root, version), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
