"""Text files with a prompt in each line."""

from collections.abc import Iterator
from pathlib import Path

from dmd.storage.text_files import read_lines


def read_prompts(file: Path) -> Iterator[str]:
    """Yield the lines of a file, with one space between words, without empty ones.

    Raises DataError if it cannot be read as UTF-8 text.
    """
    lines = (" ".join(part.split()) for line in read_lines(file) for part in line.splitlines())
    return filter(None, lines)
