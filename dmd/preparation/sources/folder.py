"""A folder of images: classes by subfolders or a table, captions by a table, splits by top folders or by counts."""

from pathlib import Path

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.pictures import open_picture
from dmd.preparation.sources.base import (
    MAX_NAME,
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
from dmd.preparation.sources.listing import count_endings, is_ignored, list_files, list_folders
from dmd.preparation.sources.table import Row, read_table

Files = dict[str, list[str]]  # split -> paths relative to the root
WHOLE = {"train": "."}  # folders of splits if there are none


def folder(cfg: DataConfig) -> Source:
    """List the images; those without a full row in the table, and rows without an image, are left out."""
    root = Path(cfg.folder)
    tops = split_folders(root)
    listed = {split: list_files(root, top) for split, top in tops.items()}
    files = {split: pictures for split, (pictures, _) in listed.items()}
    table = {} if cfg.captions == NONE else read_table(root / cfg.captions, cfg.max_caption)
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
        pools[split] = _pool(cfg, [f for f in paths if f not in faults], classes, labels, table)
    left_out += [Skipped("", row, "a row without an image") for row in sorted(table.keys() - set(images))]
    if names and not by_table:
        left_out += [Skipped("", name, "a class without images") for name in _empty_classes(root, tops, names)]
    inputs = [root / f for f in images] + ([root / cfg.captions] if table else [])
    others = [file for _, others in listed.values() for file in others] + ([] if tops == WHOLE else _top_files(root))
    passed_by = count_endings(f for f in others if f != Path(cfg.captions).as_posix())
    return Source(pools, tuple(names) or NO_CLASSES, hash_files(inputs), left_out, passed_by)


def _top_files(root: Path) -> list[str]:
    """Return the files beside the folders of the splits, which belong to no split."""
    return [p.name for p in root.iterdir() if p.is_file() and not is_ignored(p.name)]


def split_folders(root: Path) -> dict[str, str]:
    """Return the folder of each split below `root`: top folders named after splits, or the whole as train.

    Raises DataError if it is unclear whether the top folders are splits or classes.
    """
    tops = sorted(list_folders(root))
    splits = [top for top in tops if top.lower() in SPLIT_WORDS]
    if not splits:
        return WHOLE
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


def sort_classes(names: set[str]) -> list[str]:
    """Return class names in the order of their labels: by value if all are numbers, otherwise alphabetically."""
    return sorted(names, key=int if all(name.isdecimal() and len(name) <= MAX_NAME for name in names) else None)


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


def _empty_classes(root: Path, tops: dict[str, str], names: list[str]) -> list[str]:
    """Return the class folders that hold no image."""
    return sorted({name for top in tops.values() for name in list_folders(root / top)} - set(names))


def _find_fault(file: str, table: dict[str, Row]) -> str:
    """Say why an image cannot be used, before it is opened; "" if it can, or if there is no table."""
    if not table:
        return ""
    missing = [column for column, value in table.get(file, {"row": ""}).items() if not value]
    return f"no {missing[0]} in the table" if missing else ""


def _pool(
    cfg: DataConfig, files: list[str], classes: dict[str, str], labels: dict[str, int], table: dict[str, Row]
) -> Pool:
    def read(i: int) -> Record:
        file = files[i]
        picture = open_picture(Path(cfg.folder) / file, cfg.max_pixels)
        return Record(picture, labels[classes[file]], table.get(file, {}).get("caption"))

    return LazyPool(files, read)
