"""Calls of a service that may be away for a while."""

from collections.abc import Callable
from typing import TypeVar

from flows.live.spool import FOLDER
from flows.runtime.errors import one_line

INTERVAL = 5.0  # seconds between two deliveries to a service

T = TypeVar("T")


class Attempts:
    """Calls of one service, whose failures end nothing.

    The first of several failures in a row is logged, and so is the first success after them.
    """

    def __init__(self, service: str, log: Callable[[str], None]) -> None:
        self.service, self.log = service, log
        self.is_failing = False

    def __call__(self, action: Callable[[], T]) -> T | None:
        """Return what `action` returns; None if it raises an exception."""
        try:
            result = action()
        except Exception as e:  # no failure of a server may end a stage that trains for days
            if not self.is_failing:
                where = f"{FOLDER} keeps them for later"
                self.log(f"{self.service} does not take the rows of this run; {where}: {one_line(e)}")
            self.is_failing = True
            return None
        if self.is_failing:
            self.log(f"{self.service} takes the rows of this run again")
        self.is_failing = False
        return result
