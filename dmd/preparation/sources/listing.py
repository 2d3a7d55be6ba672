"""Lists the files of a data folder: pictures, files that are passed by, and files that cannot be read at all."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dmd.errors import DataError
from dmd.preparation.pictures import SUFFIXES

DESKTOP_FILES = ("thumbs.db", "desktop.ini")  # written by file managers; .DS_Store and ._* are hidden files
DESKTOP_FOLDERS = ("__MACOSX",)  # holds nothing but hidden files
MAX_VISITS = 100  # of one folder, by different links


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden or was left by a desktop, so that nobody means it as data."""
    return name.startswith(".") or name.lower() in DESKTOP_FILES or name in DESKTOP_FOLDERS


def list_folders(root: Path) -> set[str]:
    """Return the names of the folders directly in `root` that are not ignored."""
    return {p.name for p in root.iterdir() if p.is_dir() and not is_ignored(p.name)}


def list_files(root: Path, top: str = ".") -> tuple[list[str], list[str]]:
    """Return the pictures below root/top, and all other files: paths relative to `root`, sorted; ignored ones omitted.

    A file is a picture if its ending is that of a format that is read. Raises DataError for a folder that cannot be
    read, a link to a folder above itself, or a folder that links lead to too often.
    """
    pictures, others, visits = list[str](), list[str](), Counter[Path]()
    for path, folders, files in os.walk(root / top, followlinks=True, onerror=_raise_unreadable):
        folders[:] = [f for f in folders if not is_ignored(f)]
        place = Path(path).resolve()
        visits[place] += 1
        if visits[place] > MAX_VISITS:  # a few links to folders with links lead to the same one a million times
            raise DataError(f"data.folder: links lead to {place} more than {MAX_VISITS} times; remove some")
        if loop := next((f for f in folders if place.is_relative_to((place / f).resolve())), None):
            raise DataError(f"data.folder: {Path(path) / loop} is a link to a folder that it lies in; remove it")
        relative = Path(path).relative_to(root)
        for file in (f for f in files if not is_ignored(f)):
            (pictures if ending(file) in SUFFIXES else others).append((relative / file).as_posix())
    return sorted(pictures), sorted(others)


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; "" without one."""
    return Path(name).suffix.lower()


def count_endings(names: Iterable[str]) -> Counter[str]:
    """Count the files of each ending."""
    return Counter(ending(name) or "without an ending" for name in names)


def check_regular_files(root: Path) -> None:
    """Raise DataError for a pipe, socket or device below `root`: reading it would wait for ever, or never end."""
    for path in _special_files(root):
        raise DataError(f"data.folder: {path} is a pipe, socket or device, not a file; remove it")


def _special_files(root: Path) -> Iterator[Path]:
    """Yield what is neither a file nor a folder; hidden names and broken links are left out."""
    folders = [root]
    while folders:
        try:
            entries = sorted(os.scandir(folders.pop()), key=lambda entry: entry.name)
        except OSError:
            continue  # the source reports a folder that cannot be read
        for entry in entries:
            if entry.name.startswith(".") or entry.is_file(follow_symlinks=False):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif path.exists() and not path.is_file() and not path.is_dir():
                yield path


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"data.folder: {error.filename} cannot be read: {error.strerror}")
