"""What a flow needs that is started by hand: lines that can be read, a Prefect server, and nothing left behind."""

import os
import sys
from pathlib import Path

from flows.runtime import guard
from flows.runtime.roots import prefect_database

CONSOLE = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)-9s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
}


def connect(root: Path) -> None:
    """Make sure of a Prefect server, a temporary one where none is configured. Call it before importing a flow."""
    for name, form in CONSOLE.items():
        os.environ.setdefault(name, form)
    prefect_database(root).parent.mkdir(parents=True, exist_ok=True)
    guard.watch()
    import prefect.main  # noqa: F401 - sets up the console's handlers; it reads the environment as it is now

    from flows.services import prefect_server as server

    server.quiet_console()
    if not server.is_configured():
        print("starting a temporary Prefect server (up to a minute the first time)", file=sys.stderr, flush=True)
    server.connect()
