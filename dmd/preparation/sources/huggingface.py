"""A data set of the Hugging Face hub, or a folder that datasets' save_to_disk wrote."""

from pathlib import Path
from typing import Any

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.pictures import max_file_bytes, open_picture
from dmd.preparation.sources.arrays import load_dataset
from dmd.preparation.sources.base import (
    CHARACTER_BYTES,
    NO_CLASSES,
    LazyPool,
    Pool,
    Record,
    Source,
    choose_splits,
    import_optional,
)
from dmd.preparation.sources.parquet import check_column, check_footer
from dmd.storage.scratch import scratch_root


def huggingface(cfg: DataConfig) -> Source:
    """List a data set: images in the first Image column, labels in the first ClassLabel, captions in data.captions."""
    library = import_optional("datasets", "huggingface")
    if cfg.folder != NONE:
        dataset = load_dataset(cfg, lambda: library.load_from_disk(cfg.folder))
    else:
        _check_files(cfg)
        cache = str(scratch_root() / "downloads" / "huggingface")
        dataset = load_dataset(cfg, lambda: library.load_dataset(cfg.url, revision=cfg.revision, cache_dir=cache))
    splits: dict[str, Any] = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    if "train" not in splits:
        raise DataError(f"data.source: huggingface: there is no split train, only {', '.join(splits)}")
    names = choose_splits(splits, {"validation": cfg.validation_split, "test": cfg.test_split})
    parts = {name: splits[name] for name in names.values()}
    features = splits["train"].features
    image = next((n for n, f in features.items() if isinstance(f, library.Image)), None)
    label = next((n for n, f in features.items() if isinstance(f, library.ClassLabel)), None)
    if image is None or (cfg.captions != NONE and cfg.captions not in features):
        raise DataError(
            f"data.source: huggingface: needs a column of images and, if data.captions is not none, one of that name; "
            f"there are {', '.join(features)}"
        )
    if label and (other := next((s for s, d in parts.items() if d.features[label].names != features[label].names), "")):
        raise DataError(f"data.source: huggingface: the split {other} has other class names than train")
    for split, name in names.items() if label else ():
        if not any(number is not None and number >= 0 for number in parts[name][label]):
            remedy = f"name another split in data.{split}_split, or none" if split != "train" else "use other data"
            raise DataError(f"data.source: huggingface: no image of the split {name} has a label; {remedy}")
    as_bytes = library.Image(decode=False)  # a damaged image then fails only when it is read, and is counted
    pools = {s: _pool(s, d.cast_column(image, as_bytes), image, label, cfg) for s, d in parts.items()}
    classes = tuple(features[label].names) if label else NO_CLASSES
    passed_by = {f"in split {s}": len(d) for s, d in splits.items() if s not in parts}
    identity = "".join(d._fingerprint for d in parts.values())
    return Source(pools, classes, identity, passed_by=passed_by)


def _check_files(cfg: DataConfig) -> None:
    """Check the parquet files of a data set that is a folder on this machine, before the library converts them."""
    for file in sorted(Path(cfg.url).rglob("*.parquet")) if Path(cfg.url).is_dir() else ():
        check_footer(file)
        parquet = import_optional("pyarrow.parquet", "parquet")
        try:
            metadata = parquet.ParquetFile(file).metadata
        except (OSError, ValueError):
            continue  # the library names a file that it cannot read
        check_column(file, metadata, cfg.captions)


def _pool(split: str, data: Any, image: str, label: str | None, cfg: DataConfig) -> Pool:
    arrow = data.with_format("arrow")

    def read(i: int) -> Record:
        table = arrow[i]  # a view of the file on disk, whose long values must not become Python objects
        _check_size("its picture", table[image].chunk(0).field("bytes"), max_file_bytes(cfg.max_pixels))
        if cfg.captions != NONE:
            _check_size("its caption", table[cfg.captions], CHARACTER_BYTES * cfg.max_caption)
        row = table.to_pylist()[0]
        content, number = row[image], 0 if label is None else row[label]
        if content is None or number is None or number < 0:  # -1 is the library's sign for "no label"
            raise ValueError("no image" if content is None else "no label")
        caption = None if cfg.captions == NONE else row[cfg.captions]
        if cfg.captions != NONE and not (isinstance(caption, str) and caption.strip()):
            raise ValueError("no caption" if not caption or isinstance(caption, str) else "its caption is not text")
        return Record(open_picture(content["bytes"] or Path(content["path"]), cfg.max_pixels), number, caption)

    return LazyPool([f"{split} {i}" for i in range(len(data))], read)


def _check_size(name: str, column: Any, limit: int) -> None:
    """Raise ValueError if the only value of a column is a text, or bytes, of more than `limit` bytes."""
    length = getattr(column[0].as_buffer(), "size", 0) if hasattr(column[0], "as_buffer") else 0
    if length > limit:
        raise ValueError(f"{name} has {length:,} bytes, more than the {limit:,} that are read")
