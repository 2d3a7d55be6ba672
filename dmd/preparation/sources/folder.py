"""A folder of images: classes by the folders' names or a table, captions by a table, splits by folders or by counts."""

import os
from pathlib import Path

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.base import NO_CLASSES, WORDS, LazyPool, Pool, Record, Source, identity, split_of
from dmd.preparation.sources.table import Row, read_table

Files = dict[str, list[str]]  # split -> paths relative to the root


def folder(cfg: DataConfig) -> Source:
    """Lists the images; those that the table does not describe, or describes without an image, are left out."""
    root = Path(cfg.folder)
    tops = split_folders(root)
    files = {split: list_images(root, top) for split, top in tops.items()}
    table = {} if cfg.captions == NONE else read_table(root / cfg.captions)
    by_table = "label" in next(iter(table.values()), {})
    classes = {f: row["label"] for f, row in table.items()} if by_table else classes_by_folder(root, tops, files)
    everything = [f for found in files.values() for f in found]
    names = in_order({classes[f] for f in everything if classes.get(f)})
    labels = {name: i for i, name in enumerate(names)} or {"": 0}
    left_out: list[tuple[str, str, str]] = []
    pools: dict[str, Pool] = {}
    for split, found in files.items():
        trouble = {f: why for f in found if (why := _trouble(f, table))}
        left_out += [(split, f, why) for f, why in trouble.items()]
        pools[split] = _pool(root, [f for f in found if f not in trouble], classes, labels, table)
    left_out += [("", row, "a row without an image") for row in sorted(table.keys() - set(everything))]
    if names and not by_table:
        left_out += [("", name, "a class without images") for name in _empty_classes(root, tops, names)]
    inputs = [root / f for f in everything] + ([root / cfg.captions] if table else [])
    return Source(pools, tuple(names) or NO_CLASSES, identity(inputs), left_out)


def split_folders(root: Path) -> dict[str, str]:
    """Each split's folder below `root`: its own where the top folders are splits, else the whole is train."""
    tops = sorted(_folders(root))
    named = [t for t in tops if t.lower() in WORDS]
    if not named:
        return {"train": "."}
    others = [t for t in tops if t not in named]
    if others or "train" not in map(split_of, named):
        beside = f"beside {others[0]}" if others else "and no train"
        raise DataError(
            f"data.folder: {root} has {named[0]} {beside}: are the folders splits or classes? "
            "Splits are named train, validation and test, and nothing else may lie beside them"
        )
    splits = {split_of(top): top for top in tops}
    if len(splits) < len(tops):
        raise DataError(f"data.folder: {root} has two folders for one split: {', '.join(tops)}")
    return splits


def list_images(root: Path, top: str) -> list[str]:
    """Paths relative to `root`, sorted, of files with the ending of a picture; hidden ones are passed by."""
    endings = tuple(Image.registered_extensions())
    found = []
    for folder, folders, files in os.walk(root / top, followlinks=True, onerror=_unreadable):
        folders[:] = [f for f in folders if not f.startswith(".")]
        here = Path(folder).resolve()
        if loop := next((f for f in folders if here.is_relative_to((here / f).resolve())), None):
            raise DataError(f"data.folder: {Path(folder) / loop} is a link to a folder that it lies in")
        where = Path(folder).relative_to(root)
        found += [(where / f).as_posix() for f in files if f.lower().endswith(endings) and not f.startswith(".")]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise DataError(f"data.folder: {error.filename} cannot be read: {error.strerror}")


def in_order(names: set[str]) -> list[str]:
    """Labels are places in this order: numbers by their value, where all are numbers, else by the alphabet."""
    return sorted(names, key=int if all(name.isdecimal() for name in names) else None)


def classes_by_folder(root: Path, tops: dict[str, str], files: Files) -> dict[str, str]:
    """Each image's class: the first folder it lies in, "" where no image lies in one."""
    classes = {}
    for split, found in files.items():
        for file in found:
            parts = (root / file).relative_to(root / tops[split]).parts
            classes[file] = parts[0] if len(parts) > 1 else ""
    if len({bool(c) for c in classes.values()}) > 1:
        loose = next(f for f, c in classes.items() if not c)
        raise DataError(f"data.folder: {root} has images in folders of classes and beside them, such as {loose}")
    return classes


def _folders(root: Path) -> set[str]:
    return {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}


def _empty_classes(root: Path, tops: dict[str, str], names: list[str]) -> list[str]:
    """Folders that stand where classes stand, and hold no image."""
    return sorted({name for top in tops.values() for name in _folders(root / top)} - set(names))


def _trouble(file: str, table: dict[str, Row]) -> str:
    """Why an image cannot be used, found before it is opened; "" if it can, or if there is no table."""
    if not table:
        return ""
    missing = [column for column, value in table.get(file, {"row": ""}).items() if not value]
    return f"no {missing[0]} in the table" if missing else ""


def _pool(root: Path, files: list[str], classes: dict[str, str], labels: dict[str, int], table: dict[str, Row]) -> Pool:
    def read(i: int) -> Record:
        file = files[i]
        return Record(Image.open(root / file), labels[classes[file]], table.get(file, {}).get("caption"))

    return LazyPool(files, read)
