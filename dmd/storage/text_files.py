"""Reads the lines of text files that a user or a stranger wrote: within bounds, and with every mistake in one line.

A sparse file, which takes no room on a disk, can be a line of a terabyte.
"""

from collections.abc import Iterator
from pathlib import Path

from dmd.errors import DataError
from dmd.yaml_files import is_file, is_there

LONGEST = 2**23  # characters of a line; the longest caption that data.max_caption can allow has 1,000,000


def read_lines(file: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text in UTF-8, with their ends.

    newline: "" keeps the ends as they are, which module csv needs; None makes each of them a newline. Raises DataError,
    in one line that begins with the file, if it is missing, no regular file, not UTF-8, or has a line that is too long.
    """
    if is_there(file) and not is_file(file):
        raise DataError(f"{file}: not a file")  # a device never ends, and a pipe waits for ever
    try:
        with file.open(encoding="utf-8-sig", newline=newline) as text:
            number = 0
            while line := text.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise DataError(f"{file}: line {number} has more than {LONGEST:,} characters; divide it")
                yield line
    except OSError as e:
        raise DataError(f"{file}: {e.strerror or e}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text: {e}") from None
