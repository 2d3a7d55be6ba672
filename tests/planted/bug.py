"""A bug that can be planted, and a bug that takes out a protection."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bug:
    """An edit that replaces the only occurrence of `right` in a file with `wrong`."""

    name: str
    file: str
    right: str
    wrong: str

    def plant(self, root: Path) -> None:
        """Make the edit in a copy of the project."""
        path = root / self.file
        path.write_text(path.read_text().replace(self.right, self.wrong))


@dataclass(frozen=True)
class Protection(Bug):
    """A bug that takes out what keeps a promise of docs/reliability.md."""

    promise: str = field(kw_only=True)  # the beginning of its row's text, which no other row has
    test: str = field(kw_only=True)  # [FILE::]NAME of a test of that row, [PARAMETERS] behind it if one case is enough

    @property
    def digest(self) -> str:
        """A hash of everything that the outcome depends on, so that an outcome of an earlier edit is not taken."""
        parts = (self.file, self.right, self.wrong, self.promise, self.test)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
