"""Setup of Prefect in a process that runs a flow from a command."""

import os
import secrets
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from dmd.errors import UserError
from flows.runtime import guard
from flows.runtime.database import PREFECT, is_current, prepare_database
from flows.runtime.environment import ROOT, temporary_database
from flows.services.temporary_server import TemporaryServer
from flows.services.web import USER

START_PATIENCE = 180.0  # seconds
CONSOLE = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)-9s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
}


def set_up_prefect(root: Path) -> None:
    """Format the log for a terminal, start the guard and connect to a Prefect server. Call it before importing a flow.

    Starts a temporary server if none is configured. Raises UserError if the server does not answer.
    """
    begin_to_set_up_prefect(root)()


def begin_to_set_up_prefect(root: Path) -> Callable[[], None]:
    """Do what `set_up_prefect` does up to the start of a temporary server, and return a function that does the rest.

    The server starts in the background, which takes seconds, or half a minute if its database has to be made.
    """
    os.environ[ROOT] = str(root.resolve())
    for name, template in CONSOLE.items():
        os.environ.setdefault(name, template)
    guard.start()
    protection, database = _protect(), temporary_database()
    server = TemporaryServer(partial(_prepare, database), protection, START_PATIENCE)
    if not os.environ.get("PREFECT_API_URL") and (database is None or is_current(database, PREFECT)):
        server.start()  # already, since the import that says whether a profile names another server takes seconds
    try:
        _import_prefect()
    except UserError:
        server.cancel()
        raise
    from flows.services import prefect_server

    prefect_server.filter_console()
    if prefect_server.is_configured():
        server.cancel()
        return prefect_server.check_server
    print("starting a temporary Prefect server (up to a minute the first time)", file=sys.stderr, flush=True)
    os.environ |= protection
    server.start()

    def finish() -> None:
        _use(server.wait())
        prefect_server.check_server()

    return finish


def _prepare(database: Path | None) -> None:
    if database is not None:
        prepare_database(database, PREFECT)


def _use(url: str) -> None:
    """Make this process, whose settings Prefect has read already, use a server."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()


def _import_prefect() -> None:
    """Install the log handlers with the formats of the environment. Raises UserError for wrong settings of Prefect."""
    try:
        import prefect.main  # noqa: F401
    except ValidationError as e:
        first = e.errors()[0]
        mistake = f"{'.'.join(map(str, first['loc']))}: {first['input']!r}: {first['msg'].lower()}"
        raise UserError(
            f"a setting of Prefect is wrong ({mistake}); correct the PREFECT_ variable or profile"
        ) from None
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"Prefect's profiles.toml or prefect.toml is no valid TOML ({e}); correct or move it") from None


def _protect() -> dict[str, str]:
    """Return the variables of a temporary server and its client.

    The server has a token that this process alone knows, and lets pages of no other site read its answers.
    """
    token = f"{USER}:{secrets.token_urlsafe(32)}"
    own = "http://127.0.0.1"
    tokens = dict.fromkeys(("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"), token)
    return tokens | {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": own}
