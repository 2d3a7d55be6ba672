"""`python -m flows.distill`: run what has changed, publish the result to MLflow, register the generator."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config_paths import load_run_params
from dmd.errors import ConfigError, UserError
from flows.pipeline import dvc_lock
from flows.pipeline.graph import is_up_to_date, read_graph, select_stages
from flows.pipeline.presets import check_complete, make_variants
from flows.pipeline.worktrees import check_committed
from flows.plan.plan import plan
from flows.registry.gate import check_gate
from flows.registry.store import check_reachable, tracking_uri
from flows.runtime.command import run_command
from flows.services.prefect_setup import set_up_prefect
from flows.services.servers import use_local_servers


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.distill", description=__doc__)
    parser.add_argument(
        "--preset", metavar="NAME", help="a file of experiments/presets/; the run becomes a DVC experiment"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="as method.critic_turns=10")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[], help="train.seed: an experiment each")
    parser.add_argument("--force", metavar="STAGE", nargs="+", default=[], help="run these though nothing has changed")
    parser.add_argument("--no-register", action="store_true", help="publish the result, but make no version of it")
    parser.add_argument(
        "--target",
        metavar="STAGE",
        help="only this stage and what it stands on; publishes nothing, saves no experiment",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args))


def _run(root: Path, args: argparse.Namespace) -> int:
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    check_gate(load_run_params(root / "params.yaml", root).register_.gate)
    dvc_lock.restore_abandoned(root)
    overrides = _overrides(args.set)
    todo = make_variants(root, args.preset, overrides, args.seeds)
    graph = read_graph(root)
    for stage in (*args.force, *([args.target] if args.target else [])):
        select_stages(graph, stage)  # names a stage that isn't there, before any work
    if args.dry_run:
        print(plan(root, todo, args.force, args.target, args.preset), flush=True)
        return 0
    check_complete(todo)
    use_local_servers(root)
    if not args.target:
        check_reachable(tracking_uri(root))
    if todo:
        check_committed(root)
    elif (version := _finished(root, args)) is not None:
        print("Nothing changed: every stage is as dvc.lock records it, and the result is published and registered.\n")
        return _end(root, version)
    wanted = {"preset": args.preset, "overrides": overrides, "seeds": args.seeds, "force": args.force}
    said = _flow(root, {**wanted, "register_model": not args.no_register, "target": args.target})
    if todo and not args.target:
        print(f"{said}\n\nnext:\n  dvc exp show\n  dvc exp apply {todo[-1].experiment}    # take it over", flush=True)
        return 0
    if args.target or args.no_register:
        print(said, flush=True)
        return 0
    return _end(root, _registered(root) or "none")


def _overrides(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the value as YAML reads it."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {word}: write KEY=VALUE, such as method.critic_turns=10")
        try:
            found[key] = YAML(typ="safe").load(value)
        except YAMLError as e:
            raise ConfigError(f"--set {word}: not valid YAML: {' '.join(str(e).split())}") from None
    return found


def _finished(root: Path, args: argparse.Namespace) -> str | None:
    """The registered version, if there is nothing to do."""
    if args.target or args.force or args.no_register or not is_up_to_date(root):
        return None
    return _registered(root)


def _registered(root: Path) -> str | None:
    from flows.registry.versions import find_registered  # heavy: a misspelt key is told in a second, before this

    return find_registered(root)


def _flow(root: Path, parameters: dict[str, Any]) -> str:
    """Run the flow; its last words."""
    set_up_prefect(root)
    from flows.pipeline.flow import distill

    state = distill(root, **parameters, return_state=True)
    if not state.is_completed():
        raise UserError(state.message or f"the flow run ended {state.name}")
    return state.message or ""


def _end(root: Path, version: str) -> int:
    from flows.pipeline.summary import summary

    print(summary(root, version), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
