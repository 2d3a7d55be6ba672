"""A data set of the Hugging Face hub, or a folder that datasets' save_to_disk wrote."""

import io
from typing import Any

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.arrays import fetched
from dmd.preparation.sources.base import NO_CLASSES, LazyPool, Pool, Record, Source, optional, split_of
from dmd.storage.checkpoint import scratch_root


def huggingface(cfg: DataConfig) -> Source:
    """Image column: the first of that type; label: the first ClassLabel; caption: the column data.captions."""
    library = optional("datasets", "huggingface")
    if cfg.folder != NONE:
        loaded = fetched(cfg, lambda: library.load_from_disk(cfg.folder))
    else:
        cache = str(scratch_root() / "downloads" / "huggingface")
        loaded = fetched(cfg, lambda: library.load_dataset(cfg.url, revision=cfg.revision, cache_dir=cache))
    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if "train" not in splits:
        raise DataError(f"data.source: huggingface: there is no split train, only {', '.join(splits)}")
    parts = _parts(splits)
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
    encoded = library.Image(decode=False)  # bytes: a damaged image is then found and counted here
    pools = {s: _pool(s, d.cast_column(image, encoded), image, label, cfg.captions) for s, d in parts.items()}
    names = tuple(features[label].names) if label else NO_CLASSES
    return Source(pools, names, identity="".join(d._fingerprint for d in parts.values()))


def _parts(splits: dict[str, Any]) -> dict[str, Any]:
    """Train and what is held out by its name; others, such as unsupervised, are passed by."""
    named: dict[str, str] = {"train": "train"}
    for name in splits:
        if (split := split_of(name)) == "train":
            continue
        if split in named:
            raise DataError(f"data.source: huggingface: two splits to {split} by: {named[split]}, {name}")
        named[split] = name
    return {split: splits[name] for split, name in named.items()}


def _pool(split: str, data: Any, image: str, label: str | None, captions: str) -> Pool:
    def read(i: int) -> Record:
        row = data[i]
        content, number = row[image], 0 if label is None else row[label]
        if content is None or number is None or number < 0:  # -1 is the library's sign for "no label"
            raise ValueError("no image" if content is None else "no label")
        caption = None if captions == NONE else row[captions]
        if captions != NONE and not (isinstance(caption, str) and caption.strip()):
            raise ValueError("no caption" if not caption or isinstance(caption, str) else "its caption is no text")
        opened = Image.open(io.BytesIO(content["bytes"]) if content["bytes"] else content["path"])
        return Record(opened, number, caption)

    return LazyPool([f"{split} {i}" for i in range(len(data))], read)
