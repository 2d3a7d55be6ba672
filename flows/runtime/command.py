"""Errors and exit codes of the commands of this package."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from dmd.errors import ConfigError, UserError
from dmd.redaction import redact

CONTINUE = "finished stages are kept; run the same command again to continue"


class Terminated(BaseException):
    """SIGTERM as an exception, so that child processes are ended on the way out."""


def run_command(function: Callable[[], int]) -> int:
    """Call a function and return its exit code, or print the error in one line for each mistake.

    The exit code is 2 for a mistake in a file or on the command line, 1 for another error, 130 after an interrupt and
    143 after SIGTERM.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        return function()
    except ConfigError as e:
        return _print_error(str(e), 2)
    except UserError as e:
        return _print_error(str(e), 1)
    except KeyboardInterrupt:
        return _print_error(f"interrupted; {CONTINUE}", 130)
    except Terminated:
        return _print_error(f"terminated; {CONTINUE}", 143)


def _raise_terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _print_error(message: str, code: int) -> int:
    for line in redact(message).splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code
