"""What every command of this package does when it is stopped or fails: one line for each mistake, an exit code."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from dmd.errors import ConfigError, UserError

GO_ON = "what has finished is kept; the same command goes on from there"


class Terminated(BaseException):
    """SIGTERM, as an exception: what is running is ended on the way out."""


def run_command(command: Callable[[], int]) -> int:
    """The command's own; 2 for a mistake in a file or on the command line, 1 for another, 130 and 143 for signals."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except ConfigError as e:
        return _fail(str(e), 2)
    except UserError as e:
        return _fail(str(e), 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {GO_ON}", 130)
    except Terminated:
        return _fail(f"terminated; {GO_ON}", 143)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code
