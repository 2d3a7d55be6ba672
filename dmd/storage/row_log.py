"""The rows of numbers of a run, in a file of JSON lines, so that checkpoints need not hold them.

A checkpoint holds a mark: the size of the file when it was written, and the checksum of that part. A run that resumes
cuts the file back to the mark, since the training makes the later rows again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

Row = dict[str, Any]


class Mark(TypedDict):
    """The part of the file that belongs to a checkpoint."""

    bytes: int
    sha256: str


class RowLog:
    """Rows in a file. None of them stay in memory, so that it does not grow with the turns of a run."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.size, self.digest = 0, hashlib.sha256()

    def append(self, rows: Sequence[Row]) -> Mark:
        """Write rows behind those of the last mark, and return the new mark."""
        data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        with self.file.open("r+b" if self.file.exists() else "wb") as out:
            out.seek(self.size)
            out.truncate()  # a process that was killed may have left rows without a checkpoint
            out.write(data)
        self.digest.update(data)
        self.size += len(data)
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}

    def fits(self, mark: Mark) -> bool:
        """Whether the file still holds, unchanged, the rows up to a mark."""
        return self._hash(mark["bytes"]).hexdigest() == mark["sha256"]

    def cut(self, mark: Mark | None) -> None:
        """Drop the rows after a mark; all rows if it is None."""
        self.size = mark["bytes"] if mark else 0
        self.digest = self._hash(self.size)

    def read(self) -> list[Row]:
        """Return the rows up to the last mark."""
        if not self.size:
            return []
        with self.file.open("rb") as content:
            return [json.loads(line) for line in content.read(self.size).splitlines()]

    def _hash(self, size: int) -> "hashlib._Hash":
        """Hash the first `size` bytes, or all of a shorter file."""
        digest = hashlib.sha256()
        if self.file.exists():
            with self.file.open("rb") as content:
                while size > 0 and (part := content.read(min(size, 2**20))):
                    digest.update(part)
                    size -= len(part)
        return digest
