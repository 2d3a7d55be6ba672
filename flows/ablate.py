"""`python -m flows.ablate FILE`: run every row and seed of an ablation as a DVC experiment, then compare them."""

import argparse
import sys
from pathlib import Path

from dmd.errors import ConfigError, UserError
from flows.registry.store import shown_uri
from flows.runtime.command import run_command
from flows.services.prefect_setup import set_up_prefect
from flows.services.servers import use_local_servers


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if a member failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.ablate", description=__doc__)
    parser.add_argument("file", type=Path, help="an ablation file, such as experiments/ablations/dmd2_paper.yaml")
    parser.add_argument("--at-once", type=int, help="members that run at the same time; overrides at_once of the file")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.file, args.at_once))


def _run(root: Path, file: Path, at_once: int | None) -> int:
    if at_once is not None and at_once < 1:
        raise ConfigError(f"--at-once: {at_once} is not allowed; it must be 1 or more")
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    # These imports take a while; `--help` does not need them.
    from flows.ablation.plan import load_plan
    from flows.ablation.ready import check_ready

    use_local_servers(root)
    check_ready(root, load_plan(root, file), at_once)  # before a server starts
    set_up_prefect(root)
    from flows.ablation.flow import INCOMPLETE, ablate

    state = ablate(file, at_once, return_state=True)  # type: ignore[call-arg]  # Prefect's own argument
    if state.is_completed() or state.name == INCOMPLETE:
        _print_comparison(root, file.stem)
    if not state.is_completed():
        raise UserError(state.message or f"the flow run ended {state.name}")
    return 0


def _print_comparison(root: Path, name: str) -> None:
    from flows.ablation.comparison import comparison_path, format_table, load_comparison

    print(f"\n{format_table(load_comparison(root, name))}\n\n{comparison_path(root, name).with_suffix('.html')}")
    print(f"MLflow: {shown_uri(root)}, run {name}\n")
    print("next:\n  dvc exp show\n  dvc exp apply NAME    # take its files into the workspace", flush=True)


if __name__ == "__main__":
    sys.exit(main())
