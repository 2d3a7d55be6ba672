"""The option --debug, with which a command prints the traceback of an error before the line that describes it."""

import argparse
import os
import sys
import traceback
from typing import Any

from dmd.errors import printable
from dmd.redaction import redact

DEBUG = "ONESTEP_DEBUG"  # environment variable; the stages and other processes of the command inherit it


class CommandParser(argparse.ArgumentParser):
    """A parser of arguments with the option --debug, which becomes a variable of the environment."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--debug", nargs=0, action=_Remember, help="print the traceback of an error, too")


class _Remember(argparse.Action):
    def __call__(self, *_: object) -> None:
        os.environ[DEBUG] = "1"


def print_traceback() -> None:
    """Print the traceback of the error that is being handled, with those before it, if --debug asks for that.

    Errors that an error replaces are printed also where `from None` hides them. Passwords and tokens are hidden.
    """
    error = sys.exception()
    if error is None or not os.environ.get(DEBUG):
        return
    parts = list[str]()
    while error is not None:
        parts.append("".join(traceback.format_exception(error, chain=False)))
        error = error.__cause__ or error.__context__
    text = "\nWhile this error was handled, another one occurred:\n\n".join(reversed(parts))
    print(printable(redact(text)), end="", file=sys.stderr, flush=True)
