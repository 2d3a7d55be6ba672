"""Checksums beside the files that a stage keeps in its scratch folder and reads again.

FILE.sha256 is written after FILE, in the format of the command `sha256sum`. It also holds the name of the file, so that
two files that were swapped together with their checksums are found as well.
"""

import hashlib
import sys
from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path

from dmd.storage.files import new_file, sha256, write_text
from dmd.yaml_files import is_file

SUFFIX = ".sha256"


def seal_of(file: Path) -> Path:
    """Return the path of the checksum of a file."""
    return file.with_name(file.name + SUFFIX)


def write_seal(file: Path) -> None:
    """Write the checksum of a complete file, which several processes may have written at the same time."""
    with new_file(seal_of(file), shared=True) as tmp:
        tmp.write_text(_line(file), encoding="utf-8")


class HashedFile:
    """A file to write to that hashes what passes, so that it need not be read again.

    It keeps the first error of the system: PyTorch would hide a full disk in a RuntimeError.
    """

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write data; do nothing after an error."""
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except OSError as e:
                self.error = e
        return len(data)

    def flush(self) -> None:
        """Do nothing: closing the file flushes it."""


def write_sealed(file: Path, write: Callable[[HashedFile], None]) -> None:
    """Write a file and its checksum atomically and in one pass. Raises OSError with the name of the file."""
    seal_of(file).unlink(missing_ok=True)
    try:
        with new_file(file) as tmp, tmp.open("wb") as out:
            hashed = HashedFile(out)
            write(hashed)
            if hashed.error is not None:
                raise hashed.error
        write_text(seal_of(file), f"{hashed.digest.hexdigest()}  {file.name}\n")
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(file)) from e


def is_sealed(file: Path) -> bool:
    """Return whether the file is complete: a process that is killed while it writes the file leaves no checksum."""
    return file.exists() and seal_of(file).exists()


def is_intact(file: Path) -> bool:
    """Return whether a sealed file still has the content that was sealed; False if either file is unreadable."""
    if not (is_file(file) and is_file(seal_of(file))):  # a link to a device would never end
        return False
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
