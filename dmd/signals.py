"""Signals that end a stage: SIGTERM, and SIGUSR1, which a scheduler sends ahead of a time limit.

They raise Stopped at once, except in a training loop, which first ends its turn and saves a checkpoint.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

RETRY = 75  # exit code EX_TEMPFAIL of sysexits.h: the same command, run again, continues
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal asks the process to end; running it again continues."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_stop() -> None:
    """Raise Stopped on the first of STOP_SIGNALS. Later ones are ignored, so that they interrupt no cleaning up."""
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


@dataclass
class StopRequest:
    """The first signal that has asked a training to end."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def end(self) -> NoReturn:
        """Raise what the signal raises outside of a training, after the checkpoint is saved."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(self.number or signal.SIGTERM)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextlib.contextmanager
def postpone_stop() -> Iterator[StopRequest]:
    """Postpone SIGINT, SIGTERM and SIGUSR1 during a block, which looks at the request between two turns.

    A second SIGINT, as of a second Ctrl-C, ends the block at once. Only the main thread can postpone signals.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._record) for number in (signal.SIGINT, *STOP_SIGNALS)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if request and number in STOP_SIGNALS else handler)
