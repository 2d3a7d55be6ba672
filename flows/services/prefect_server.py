"""The Prefect server of a process: the configured one, or a temporary one that Prefect starts as a child process."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import httpx
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from dmd.errors import UserError
from flows.runtime.command import CONTINUE
from flows.runtime.environment import TAG
from flows.runtime.errors import one_line
from flows.services.prefect_address import check_prefect

ENGINES = ("task_engine", "flow_engine")  # modules whose messages repeat the state of a run


def is_configured() -> bool:
    """Return whether PREFECT_API_URL or the active profile names a server."""
    return bool(PREFECT_API_URL.value())


def check_server() -> None:
    """Ask the server for its health; Prefect starts a temporary server if none is configured.

    The request runs in a thread that blocks SIGINT, because the temporary server is a child process
    (https://github.com/PrefectHQ/prefect/pull/14722) and inherits the blocked signals. A Ctrl-C in the terminal
    reaches the whole process group; the server must survive it to record the final state of the run.

    Raises UserError if the server does not answer.
    """
    if is_configured():
        check_prefect(PREFECT_API_URL.value() or "")
    failures: list[Exception] = []
    thread = threading.Thread(target=_request_health, args=(failures,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
    if failures:
        server = f"the Prefect server {PREFECT_API_URL.value()}" if is_configured() else "a temporary Prefect server"
        raise UserError(f"{server} does not answer: {one_line(failures[0])}")


def _request_health(failures: list[Exception]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            if problem := client.api_healthcheck():
                failures.append(problem)
    except (RuntimeError, ValueError, OSError, httpx.HTTPError) as e:
        failures.append(e)


@contextlib.contextmanager
def calling_a_flow() -> Iterator[None]:
    """Tag the flow runs of the block. Raises UserError if the server goes away for longer than its client waits."""
    try:
        with tags(TAG):
            yield
    except httpx.HTTPError as e:
        server = PREFECT_API_URL.value()
        raise UserError(f"the Prefect server {server} does not answer any more ({one_line(e)}); {CONTINUE}") from e


def filter_console() -> None:
    """Print messages of stages and warnings of Prefect on the terminal; the server still receives every message.

    A message that the server cannot take is lost there without a traceback on the terminal.
    """
    logging.raiseExceptions = False
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_terminal)


def _is_for_terminal(record: logging.LogRecord) -> bool:
    if record.name.startswith(("prefect.flow_runs", "prefect.task_runs")):
        return record.module not in ENGINES
    return record.levelno >= logging.WARNING
