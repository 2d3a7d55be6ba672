"""Checksums beside the files that a stage keeps in its scratch folder and reads again.

FILE.sha256 is written after FILE, in the format of the command `sha256sum`. It also holds the name of the file, so that
two files that were swapped together with their checksums are found as well.
"""

import sys
from pathlib import Path

from dmd.storage.files import sha256, write_text

SUFFIX = ".sha256"


def seal_of(file: Path) -> Path:
    """Return the path of the checksum of a file."""
    return file.with_name(file.name + SUFFIX)


def write_seal(file: Path) -> None:
    """Write the checksum of a complete file."""
    write_text(seal_of(file), _line(file))


def is_sealed(file: Path) -> bool:
    """Return whether the file is complete: a process that is killed while it writes the file leaves no checksum."""
    return file.exists() and seal_of(file).exists()


def is_intact(file: Path) -> bool:
    """Return whether a sealed file still has the content that was sealed; False if either file is unreadable."""
    try:
        return seal_of(file).read_bytes() == _line(file).encode()
    except OSError:
        return False


def is_usable(file: Path) -> bool:
    """Return whether a kept file can be used. A damaged one is named and removed, so that it is computed again."""
    if not is_sealed(file):
        return False
    if is_intact(file):
        return True
    report_damage(file, "it is removed and computed again")
    remove_sealed(file)
    return False


def report_damage(file: Path, remedy: str) -> None:
    """Print that a file differs from its checksum, and what is done about it."""
    print(
        f"note: {file} is damaged: it does not fit its checksum in {seal_of(file).name}; {remedy}",
        file=sys.stderr,
        flush=True,
    )


def remove_sealed(file: Path) -> None:
    """Remove a file and its checksum; do nothing if they are missing."""
    seal_of(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _line(file: Path) -> str:
    return f"{sha256(file)}  {file.name}\n"
