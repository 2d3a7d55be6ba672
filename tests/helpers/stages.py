"""Run a stage as a command in this process."""

import contextlib
import io
import runpy
import signal
import sys

from dmd.signals import STOP_SIGNALS

PATHS = {name: f"artifacts/{name}" for name in ("data", "teacher", "encoded", "evaluator", "trunk", "pairs")}


def arguments(*names: str) -> list[str]:
    """The options that name input folders of stage `train`."""
    return [word for name in names for word in (f"--{name}", PATHS[name])]


def stage(name: str, *args: object) -> tuple[int, str]:
    """Run `python -m stages.NAME args` in this process, which has imported torch; return the exit code and stderr."""
    handlers, err = {number: signal.getsignal(number) for number in STOP_SIGNALS}, io.StringIO()
    argv, sys.argv = sys.argv, [f"stages.{name}", *map(str, args)]
    try:
        with contextlib.redirect_stderr(err):
            runpy.run_module(f"stages.{name}", run_name="__main__")
        return 0, err.getvalue()
    except SystemExit as e:
        return int(e.code or 0), err.getvalue()
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
