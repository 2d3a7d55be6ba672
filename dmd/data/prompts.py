"""Text files with a prompt in each line."""

from pathlib import Path

from dmd.errors import DataError


def read_prompts(file: Path) -> list[str]:
    """Return the lines of a file, with one space between words, without empty ones.

    Raises DataError if it cannot be read as UTF-8 text.
    """
    try:
        lines = [" ".join(line.split()) for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file} is not UTF-8 text: {e}") from None
    return [line for line in lines if line]
