"""`python -m flows.search FILE`: search parameters by Optuna; each trial is a DVC experiment and an MLflow run."""

import sys
from pathlib import Path

from flows.runtime.command import check_arguments, read_arguments, run_command
from flows.runtime.errors import error_of


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if a trial failed."""
    args = read_arguments(argv, "python -m flows.search", __doc__, "experiments/searches/digits.yaml", "trials")
    return run_command(lambda: _run(Path.cwd(), args.file, args.at_once, args.dry_run))


def _run(root: Path, file: Path, at_once: int | None, dry_run: bool) -> int:
    check_arguments(root, at_once)
    # These imports take a while; `--help` does not need them.
    from flows.tuning.plan import load_plan

    plan = load_plan(root, file)
    if dry_run:
        from flows.tuning.dry_run import describe

        print(describe(plan), flush=True)
        return 0
    from flows.services.prefect_setup import begin_to_set_up_prefect
    from flows.services.servers import use_local_servers
    from flows.tuning.ready import check_ready

    use_local_servers(root)
    finish_setup = begin_to_set_up_prefect(root)  # its server starts while the checks import torch
    check_ready(root, plan, at_once)
    finish_setup()
    from flows.ablation.flow import INCOMPLETE
    from flows.services.prefect_server import calling_a_flow
    from flows.tuning.flow import search
    from flows.tuning.summary import summarize

    with calling_a_flow():
        state = search(file, at_once, return_state=True)  # type: ignore[call-arg]  # Prefect's own argument
    if state.is_completed() or state.name == INCOMPLETE:
        print(f"\n{summarize(plan)}", flush=True)
    if not state.is_completed():
        raise error_of(state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
