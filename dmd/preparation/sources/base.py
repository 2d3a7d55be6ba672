"""What a source of data is: it lists what it has before anything is read, and reads one image at a time."""

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from dmd.errors import DataError

NO_CLASSES = ("image",)  # data without labels are one class
WORDS = {  # of names of files and folders, and the splits that they stand for
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One image (None: a prompt alone), its label, and its caption where it has one of its own."""

    image: Image.Image | None
    label: int
    caption: str | None = None


class Pool(Protocol):
    """Records that can be read in any order, by several threads."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What a user finds record i by."""
        ...

    def read(self, i: int) -> Record:
        """Any exception says why record i cannot be used."""
        ...


@dataclass(frozen=True)
class Source:
    """Its pools: train, and validation and test where the data set has such splits of its own."""

    pools: dict[str, Pool]
    class_names: tuple[str, ...]
    identity: str  # changes when the source's files do
    left_out: list[tuple[str, str, str]] = field(default_factory=list)  # (split, name, reason), found while listing


@dataclass(frozen=True)
class LazyPool:
    """A pool of anything that has a length, a name for each record, and a way to read one."""

    names: Sequence[str] | range
    reader: Callable[[int], Record]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.names[i])

    def read(self, i: int) -> Record:
        return self.reader(i)


def identity(files: Iterable[Path]) -> str:
    """Hash of names, sizes and times of change: cheap, and enough to tell whether an interrupted run may go on."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
            facts = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError as e:  # reading it will say the same, and count it
            facts = str(e.errno)
        digest.update(os.fsencode(file) + f"\0{facts}\n".encode())
    return digest.hexdigest()


def split_of(name: str) -> str:
    """The split that a file belongs to by a word of its name, as in coco-val-000.tar; train where there is none.

    Raises DataError where it names two.
    """
    found = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    if len(found) > 1:
        raise DataError(f"{name}: the name says {' and '.join(sorted(found))}; of which split is it?")
    return found.pop() if found else "train"


def optional(package: str, extra: str) -> Any:
    """A library that not every installation has. Raises DataError that names the extra."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise DataError(f"this data source needs the package {package}: pip install '.[{extra}]'") from None
