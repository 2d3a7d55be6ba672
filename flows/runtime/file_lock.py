"""File locks between processes."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dmd.errors import UserError


@contextlib.contextmanager
def hold_lock(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created if needed. The system frees it when the process ends.

    busy: the start of the error message if another process holds the lock; None waits for it.

    Raises UserError if the file cannot be written or locked, or if `busy` is given and another process holds the lock.
    """
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{busy} (pid {file.read().strip() or 'unknown'})") from None
        except OSError as e:  # such as Lustre without flock
            raise UserError(f"{path} cannot be locked ({e.strerror}); use a file system that has locks") from e
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as e:
        raise UserError(f"{path} cannot be written ({e.strerror}); make its folder writable") from None
