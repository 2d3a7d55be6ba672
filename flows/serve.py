"""`python -m flows.serve`: serve the deployments on one machine, for runs from the Prefect UI or by a schedule."""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from dmd.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Serve until the process is ended; return 1 if no Prefect server answers."""
    CommandParser(prog="python -m flows.serve", description=__doc__).parse_args(argv)
    # These imports take seconds; `--help` does not need them.
    from prefect import serve

    from flows.deployments import list_deployments
    from flows.runtime.environment import prefect_database
    from flows.services import prefect_server
    from flows.services.lost_runs import create_automations

    prefect_database(Path.cwd()).parent.mkdir(parents=True, exist_ok=True)  # for a temporary server
    try:
        prefect_server.check_server()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    create_automations()
    serve(*list_deployments(), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
