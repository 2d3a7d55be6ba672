"""Turns the errors that libraries raise for files they cannot use into an error of one line."""

import contextlib
from collections.abc import Iterator

import torch

from dmd.errors import TeacherError, UserError, one_line


@contextlib.contextmanager
def refuse(fault: str, remedy: str, error: type[UserError] = TeacherError) -> Iterator[None]:
    """Raise `error` "FAULT: the library's own message; REMEDY" for any error in the block.

    A wrong config or file may raise an error of any type. A lack of memory stays as it is.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as e:
        raise error(f"{fault}: {one_line(e)}; {remedy}") from e
