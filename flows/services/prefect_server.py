"""The Prefect server of a run started by hand: the one that is configured, or a temporary one."""

import logging
import signal
import threading

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from dmd.errors import UserError
from flows.runtime.errors import one_line

ENGINES = ("task_engine", "flow_engine")  # what these say is in Prefect's own records and in our summary


def is_configured() -> bool:
    """Whether PREFECT_API_URL or the active profile names a server."""
    return bool(PREFECT_API_URL.value())


def connect() -> None:
    """Make sure of a server before any work.

    A temporary one is started from a thread that has SIGINT blocked. The server inherits that, and so outlives a Ctrl-C
    for long enough to be told how the run ended.
    """
    failures: list[Exception] = []
    thread = threading.Thread(target=_healthcheck, args=(failures,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
    if failures:
        where = f"the Prefect server {PREFECT_API_URL.value()}" if is_configured() else "a temporary Prefect server"
        raise UserError(f"{where} doesn't answer: {one_line(failures[0])}")


def _healthcheck(failures: list[Exception]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            if problem := client.api_healthcheck():
                failures.append(problem)
    except (RuntimeError, ValueError, OSError, httpx.HTTPError) as e:
        failures.append(e)


def quiet_console() -> None:
    """On the terminal, stages speak and Prefect keeps to warnings; its API gets everything."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_the_terminal)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    if record.name.startswith(("prefect.flow_runs", "prefect.task_runs")):
        return record.module not in ENGINES
    return record.levelno >= logging.WARNING
