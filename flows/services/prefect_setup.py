"""Setup of Prefect in a process that runs a flow from a command."""

import os
import sys
from pathlib import Path

from flows.runtime import guard
from flows.runtime.environment import ROOT, prefect_database

CONSOLE = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)-9s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
}


def set_up_prefect(root: Path) -> None:
    """Format the log for a terminal, start the guard and connect to a Prefect server. Call it before importing a flow.

    Starts a temporary server if none is configured. Raises UserError if the server does not answer.
    """
    os.environ[ROOT] = str(root.resolve())
    for name, template in CONSOLE.items():
        os.environ.setdefault(name, template)
    prefect_database(root).parent.mkdir(parents=True, exist_ok=True)
    guard.start()
    import prefect.main  # noqa: F401 - installs the log handlers with the formats of the environment

    from flows.services import prefect_server

    prefect_server.filter_console()
    if not prefect_server.is_configured():
        print("starting a temporary Prefect server (up to a minute the first time)", file=sys.stderr, flush=True)
    prefect_server.check_server()
