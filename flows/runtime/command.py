"""Errors and exit codes of the commands of this package."""

import os
import sys
import threading
from collections.abc import Callable

from dmd.errors import ConfigError, UserError
from dmd.redaction import redact
from dmd.signals import RETRY, Stopped, raise_on_stop

CONTINUE = "finished stages are kept; run the same command again to continue"

EXIT_PATIENCE = 2.0  # seconds


def run_command(function: Callable[[], int]) -> int:
    """Call a function and return its exit code, or print the error in one line for each mistake.

    The exit code is 2 for a mistake in a file or on the command line, 1 for another error, 130 after an interrupt, and
    75 after SIGTERM or SIGUSR1, by which a scheduler sees that the same command continues.
    """
    raise_on_stop()
    try:
        if sys.flags.optimize > 1:
            raise UserError("PYTHONOPTIMIZE=2 removes docstrings, which diffusers reads; unset it, and run without -OO")
        return function()
    except ConfigError as e:
        return _print_error(str(e), 2)
    except UserError as e:
        return _print_error(str(e), 1)
    except KeyboardInterrupt:
        return _print_error(f"interrupted; {CONTINUE}", 130)
    except Stopped as e:
        _bound_exit(RETRY)
        return _print_error(f"stopped by {e}; {CONTINUE}", RETRY)


def _bound_exit(code: int) -> None:
    """End this process after EXIT_PATIENCE: Prefect waits for its threads, although the final state is stored."""
    timer = threading.Timer(EXIT_PATIENCE, os._exit, [code])
    timer.daemon = True
    timer.start()


def _print_error(message: str, code: int) -> int:
    for line in redact(message).splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code
