"""Arguments, errors and exit codes of the commands of this package."""

import argparse
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from dmd.debug import CommandParser, print_traceback
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
    print_traceback()
    for line in redact(message).splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code


def read_arguments(argv: list[str] | None, prog: str, about: str | None, example: str, runs: str) -> argparse.Namespace:
    """Read file, at_once and dry_run of a command that runs the experiments of a file.

    example: such a file; runs: the word for its experiments. Both are for the help.
    """
    parser = CommandParser(prog=prog, description=about)
    parser.add_argument("file", type=Path, help=f"a file such as {example}")
    parser.add_argument("--at-once", type=int, help=f"{runs} that run at the same time; overrides at_once of the file")
    parser.add_argument("--dry-run", action="store_true", help=f"print the {runs} and what they cost; run nothing")
    return parser.parse_args(argv)


def check_arguments(root: Path, at_once: int | None) -> None:
    """Raise ConfigError unless `root` is the project's folder and at least one experiment runs at once."""
    if at_once is not None and at_once < 1:
        raise ConfigError(f"--at-once: {at_once} is not allowed; it must be 1 or more")
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
