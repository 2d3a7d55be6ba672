"""The contract of a source of data: it lists its records before it reads any, and reads one record at a time."""

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from dmd.config import NONE
from dmd.errors import DataError

NO_CLASSES = ("image",)  # class names of data without labels: a single class
MAX_NAME = 255  # characters of a class name: as many as a file system allows
CHARACTER_BYTES = 4  # of a character in UTF-8, at most
MAX_SHOWN = 1000  # characters of a record's name in messages; a prompt's name is its text
AUTO = "auto"  # value of data.validation_split and data.test_split: the split whose name says so
SPLIT_WORDS = {  # words in names of files and folders -> split
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """An image (None for a prompt alone), its label, and its own caption if it has one."""

    image: Image.Image | None
    label: int
    caption: str | None = None


class Skipped(NamedTuple):
    """A record that cannot be used."""

    split: str
    name: str
    reason: str


class Pool(Protocol):
    """Records that can be read in any order, by several threads."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return the name by which a user finds record i."""
        ...

    def read(self, i: int) -> Record:
        """Read record i. The text of any exception says why the record cannot be used."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set: a pool for train, and for validation and test if the data set has such splits of its own."""

    pools: dict[str, Pool]
    class_names: tuple[str, ...]
    identity: str  # changes when the files of the data set change
    left_out: list[Skipped] = field(default_factory=list)  # records that listing found to be unusable
    passed_by: Mapping[str, int] = field(default_factory=dict)  # number of files of each kind that hold no record


@dataclass(frozen=True)
class LazyPool:
    """A pool from a name for each record and a function that reads one record."""

    names: Sequence[str] | range
    reader: Callable[[int], Record]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.names[i])

    def read(self, i: int) -> Record:
        return self.reader(i)


def hash_files(files: Iterable[Path]) -> str:
    """Hash names, sizes and modification times: cheap, and enough to tell whether a killed run may continue."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
            facts = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError as e:  # reading the file fails as well and is counted there
            facts = str(e.errno)
        digest.update(os.fsencode(file) + f"\0{facts}\n".encode())
    return digest.hexdigest()


def find_split(name: str) -> str:
    """Return the split that a word of a file's name stands for, as in coco-val-000.tar; train if there is no such word.

    Raises DataError if the name stands for two splits.
    """
    splits = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS}
    if len(splits) > 1:
        raise DataError(f"{name}: the name contains {' and '.join(sorted(splits))}; rename it after one split")
    return splits.pop() if splits else "train"


def choose_splits(names: Iterable[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the name in the data set of each split: train, and validation and test if the data set has such splits.

    names: the data set's own. chosen: the values of data.validation_split and data.test_split by split; AUTO: the name
    that contains such a word, NONE: no split of the data set. Others, such as unsupervised, are left out.

    Raises DataError if a chosen name does not exist, or two names stand for one split.
    """
    names = list(names)
    found = {"train": "train"} if "train" in names else {}
    for split, name in chosen.items():
        key = f"data.{split}_split"
        if name not in (AUTO, NONE) and (name not in names or name == "train"):
            others = [n for n in names if n != "train"]
            raise DataError(
                f"{key}: {name} is no split that the data set holds out; it has {', '.join(others) or 'none'}"
            )
        taken = [*found.values(), *(other for s, other in chosen.items() if s != split)]
        fitting = [n for n in names if find_split(n) == split and n not in taken] if name == AUTO else [name]
        if len(fitting) > 1:
            raise DataError(f"{key}: {' and '.join(fitting)} can serve as {split}; name one of them")
        if fitting and fitting != [NONE]:
            found[split] = fitting[0]
    if found.get("validation") == found.get("test") is not None:
        raise DataError(
            f"data.validation_split and data.test_split: both are {found['test']}; name two splits, or none"
        )
    return found


def import_optional(package: str, extra: str) -> Any:
    """Import a library of an optional extra. Raises DataError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise DataError(f"this data source needs the package {package}: pip install '.[{extra}]'") from None
