"""A folder of images: classes by subfolders or a table, captions by a table, splits by top folders or by counts."""

import os
from pathlib import Path

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.base import (
    NO_CLASSES,
    SPLIT_WORDS,
    LazyPool,
    Pool,
    Record,
    Skipped,
    Source,
    find_split,
    hash_files,
)
from dmd.preparation.sources.table import Row, read_table

Files = dict[str, list[str]]  # split -> paths relative to the root


def folder(cfg: DataConfig) -> Source:
    """List the images; those without a full row in the table, and rows without an image, are left out."""
    root = Path(cfg.folder)
    tops = split_folders(root)
    files = {split: list_images(root, top) for split, top in tops.items()}
    table = {} if cfg.captions == NONE else read_table(root / cfg.captions)
    by_table = "label" in next(iter(table.values()), {})
    classes = {f: row["label"] for f, row in table.items()} if by_table else assign_classes(root, tops, files)
    images = [f for paths in files.values() for f in paths]
    names = sort_classes({classes[f] for f in images if classes.get(f)})
    labels = {name: i for i, name in enumerate(names)} or {"": 0}
    left_out: list[Skipped] = []
    pools: dict[str, Pool] = {}
    for split, paths in files.items():
        faults = {f: fault for f in paths if (fault := _find_fault(f, table))}
        left_out += [Skipped(split, f, fault) for f, fault in faults.items()]
        pools[split] = _pool(root, [f for f in paths if f not in faults], classes, labels, table)
    left_out += [Skipped("", row, "a row without an image") for row in sorted(table.keys() - set(images))]
    if names and not by_table:
        left_out += [Skipped("", name, "a class without images") for name in _empty_classes(root, tops, names)]
    inputs = [root / f for f in images] + ([root / cfg.captions] if table else [])
    return Source(pools, tuple(names) or NO_CLASSES, hash_files(inputs), left_out)


def split_folders(root: Path) -> dict[str, str]:
    """Return the folder of each split below `root`: top folders named after splits, or the whole as train.

    Raises DataError if it is unclear whether the top folders are splits or classes.
    """
    tops = sorted(_subfolders(root))
    splits = [top for top in tops if top.lower() in SPLIT_WORDS]
    if not splits:
        return {"train": "."}
    others = [top for top in tops if top not in splits]
    if others or "train" not in map(find_split, splits):
        beside = f"beside {others[0]}" if others else "and no train"
        raise DataError(
            f"data.folder: {root} has {splits[0]} {beside}: are the folders splits or classes? "
            "Splits are named train, validation and test, and nothing else may lie beside them"
        )
    by_split = {find_split(top): top for top in tops}
    if len(by_split) < len(tops):
        raise DataError(f"data.folder: {root} has two folders for one split: {', '.join(tops)}; merge them")
    return by_split


def list_images(root: Path, top: str) -> list[str]:
    """Return the paths, relative to `root` and sorted, of files with a picture's suffix; hidden ones are ignored.

    Raises DataError for a folder that cannot be read, or a link to a folder above itself.
    """
    suffixes = tuple(Image.registered_extensions())
    images = []
    for path, folders, files in os.walk(root / top, followlinks=True, onerror=_raise_unreadable):
        folders[:] = [f for f in folders if not f.startswith(".")]
        place = Path(path).resolve()
        if loop := next((f for f in folders if place.is_relative_to((place / f).resolve())), None):
            raise DataError(f"data.folder: {Path(path) / loop} is a link to a folder that it lies in; remove it")
        relative = Path(path).relative_to(root)
        images += [(relative / f).as_posix() for f in files if f.lower().endswith(suffixes) and not f.startswith(".")]
    return sorted(images)


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"data.folder: {error.filename} cannot be read: {error.strerror}")


def sort_classes(names: set[str]) -> list[str]:
    """Return class names in the order of their labels: by value if all are numbers, otherwise alphabetically."""
    return sorted(names, key=int if all(name.isdecimal() for name in names) else None)


def assign_classes(root: Path, tops: dict[str, str], files: Files) -> dict[str, str]:
    """Return the class of each image: the first folder it lies in, "" if no image lies in a folder.

    Raises DataError if only some images lie in folders.
    """
    classes = {}
    for split, paths in files.items():
        for file in paths:
            parts = (root / file).relative_to(root / tops[split]).parts
            classes[file] = parts[0] if len(parts) > 1 else ""
    if len({bool(c) for c in classes.values()}) > 1:
        loose = next(f for f, c in classes.items() if not c)
        raise DataError(
            f"data.folder: {root} has images both in class folders and beside them, such as {loose}; use one of the two"
        )
    return classes


def _subfolders(root: Path) -> set[str]:
    return {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}


def _empty_classes(root: Path, tops: dict[str, str], names: list[str]) -> list[str]:
    """Return the class folders that hold no image."""
    return sorted({name for top in tops.values() for name in _subfolders(root / top)} - set(names))


def _find_fault(file: str, table: dict[str, Row]) -> str:
    """Say why an image cannot be used, before it is opened; "" if it can, or if there is no table."""
    if not table:
        return ""
    missing = [column for column, value in table.get(file, {"row": ""}).items() if not value]
    return f"no {missing[0]} in the table" if missing else ""


def _pool(root: Path, files: list[str], classes: dict[str, str], labels: dict[str, int], table: dict[str, Row]) -> Pool:
    def read(i: int) -> Record:
        file = files[i]
        return Record(Image.open(root / file), labels[classes[file]], table.get(file, {}).get("caption"))

    return LazyPool(files, read)
