"""An item that can be removed: its kind, name and size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """A file, folder or model version that nothing refers to, and the call that removes it."""

    kind: str
    name: str
    size: int  # bytes that its removal frees
    remove: Callable[[], object]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; a file that another process has removed counts 0."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else (path,):
        try:
            if not file.is_symlink() and file.is_file():
                total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total
