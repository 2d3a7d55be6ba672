"""The temporary Prefect server ends with its run, and says nothing more."""

import subprocess
import sys

from tests.helpers.projects import ROOT

PROGRAM = """
import logging
from flows.services import temporary_server

class Server:
    def __setattr__(self, name, value):
        logging.getLogger("prefect.server").error("an error of a service that is cancelled")

logging.getLogger("prefect.server").error("an error before")
temporary_server.GRACE = 0
temporary_server._end_with_parent(Server())
"""


def test_the_server_logs_nothing_once_its_run_has_ended() -> None:
    """Prefect's services log tracebacks when they are cancelled, which would follow the last line of a stopped run."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, input=b"", capture_output=True, check=True)
    assert b"an error before" in done.stderr and b"cancelled" not in done.stderr
