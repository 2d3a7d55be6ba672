"""`python -m flows.watch`: evaluate the champion again and compare its figures with the recorded ones.

Exit code 0: the figures agree; 1: they do not, or the evaluation failed.
"""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from dmd.errors import ConfigError
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.watch", description=__doc__)
    parser.add_argument("--seed", type=int, help="seed of the fresh noise; by default the time in seconds")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.seed))


def _run(root: Path, seed: int | None) -> int:
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    # These imports take a second; `--help` does not need them.
    from dmd.config import load_params
    from flows.services.prefect_setup import set_up_prefect
    from flows.services.servers import use_local_servers

    load_params(root / "params.yaml")
    use_local_servers(root)
    set_up_prefect(root)
    from flows.registry.watch import watch
    from flows.services.prefect_server import calling_a_flow

    with calling_a_flow():
        state = watch(seed, return_state=True)
    print(state.message)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
