"""A data set of the Hugging Face hub, or a folder that datasets' save_to_disk wrote."""

import io
from typing import Any

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.arrays import load_dataset
from dmd.preparation.sources.base import NO_CLASSES, LazyPool, Pool, Record, Source, find_split, import_optional
from dmd.storage.checkpoint import scratch_root


def huggingface(cfg: DataConfig) -> Source:
    """List a data set: images in the first Image column, labels in the first ClassLabel, captions in data.captions."""
    library = import_optional("datasets", "huggingface")
    if cfg.folder != NONE:
        dataset = load_dataset(cfg, lambda: library.load_from_disk(cfg.folder))
    else:
        cache = str(scratch_root() / "downloads" / "huggingface")
        dataset = load_dataset(cfg, lambda: library.load_dataset(cfg.url, revision=cfg.revision, cache_dir=cache))
    splits: dict[str, Any] = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    if "train" not in splits:
        raise DataError(f"data.source: huggingface: there is no split train, only {', '.join(splits)}")
    parts = _choose_splits(splits)
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
    as_bytes = library.Image(decode=False)  # a damaged image then fails only when it is read, and is counted
    pools = {s: _pool(s, d.cast_column(image, as_bytes), image, label, cfg.captions) for s, d in parts.items()}
    names = tuple(features[label].names) if label else NO_CLASSES
    return Source(pools, names, identity="".join(d._fingerprint for d in parts.values()))


def _choose_splits(splits: dict[str, Any]) -> dict[str, Any]:
    """Return the splits whose names stand for train, validation and test, and ignore others, such as unsupervised.

    Raises DataError if two names stand for the same split.
    """
    names: dict[str, str] = {"train": "train"}
    for name in splits:
        if (split := find_split(name)) == "train":
            continue
        if split in names:
            raise DataError(f"data.source: huggingface: two splits can serve as {split}: {names[split]}, {name}")
        names[split] = name
    return {split: splits[name] for split, name in names.items()}


def _pool(split: str, data: Any, image: str, label: str | None, captions: str) -> Pool:
    def read(i: int) -> Record:
        row = data[i]
        content, number = row[image], 0 if label is None else row[label]
        if content is None or number is None or number < 0:  # -1 is the library's sign for "no label"
            raise ValueError("no image" if content is None else "no label")
        caption = None if captions == NONE else row[captions]
        if captions != NONE and not (isinstance(caption, str) and caption.strip()):
            raise ValueError("no caption" if not caption or isinstance(caption, str) else "its caption is not text")
        picture = Image.open(io.BytesIO(content["bytes"]) if content["bytes"] else content["path"])
        return Record(picture, number, caption)

    return LazyPool([f"{split} {i}" for i in range(len(data))], read)
