"""Turns the errors that libraries raise for a folder they cannot use into a TeacherError of one line."""

import contextlib
from collections.abc import Iterator

import torch

from dmd.errors import TeacherError, UserError, one_line


@contextlib.contextmanager
def refuse(fault: str, remedy: str) -> Iterator[None]:
    """Raise TeacherError "FAULT: the error's own message; REMEDY" for any error in the block.

    A wrong config or file may raise an error of any type. A lack of memory stays as it is.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as e:
        raise TeacherError(f"{fault}: {one_line(e)}; {remedy}") from e
