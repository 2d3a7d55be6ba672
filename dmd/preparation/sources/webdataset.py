"""WebDataset shards: tar files in which the files of a sample share the name up to the first dot."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.base import NO_CLASSES, LazyPool, Pool, Record, Source, identity, optional, split_of
from dmd.storage.checkpoint import scratch_root
from dmd.storage.files import new_file

BLOCK = 512  # bytes; an archive that is whole ends with two of zeros
PADDING = 2**20  # bytes of zeros after its last file, at most; tar itself pads to 10,240
LABEL, NAMES = "cls", "classes.txt"


@dataclass
class Sample:
    """Where a sample's files lie in their shard: ending -> (offset, bytes)."""

    shard: Path
    key: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, ending: str) -> bytes:
        offset, size = self.files[ending]
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    @property
    def images(self) -> list[str]:
        """The endings of its pictures: the plain ones where there are any, as png beside depth.png."""
        found = [e for e in self.files if f".{e.rsplit('.')[-1]}" in Image.registered_extensions()]
        return [e for e in found if "." not in e] or found


def webdataset(cfg: DataConfig) -> Source:
    """Lists every sample of the shards; a shard's name says its split, as test-000.tar does."""
    folder = Path(cfg.folder)
    shards = sorted(folder.glob("*.tar")) if cfg.folder != NONE else [fetch(url) for url in expand(cfg.url)]
    if not shards:
        raise DataError(f"data.folder: {folder} has no .tar file")
    names = _class_names(folder / NAMES)
    left_out: list[tuple[str, str, str]] = []
    samples: dict[str, list[Sample]] = {}
    labels: dict[str, list[int]] = {}
    for shard in shards:
        split = split_of(shard.name)
        for sample in list_samples(shard):
            label, why = _label(sample, cfg, names)
            if why:
                left_out.append((split, f"{shard.name}/{sample.key}", why))
                continue
            samples.setdefault(split, []).append(sample)
            labels.setdefault(split, []).append(label)
    labelled = any(LABEL in s.files for part in samples.values() for s in part)
    highest = max((label for part in labels.values() for label in part), default=0)
    classes = names or tuple(str(i) for i in range(highest + 1)) if labelled else NO_CLASSES
    if labelled and (bare := next((s for p in samples.values() for s in p if LABEL not in s.files), None)):
        raise DataError(f"{bare.shard}: sample {bare.key!r} has no .{LABEL}, others have")
    pools: dict[str, Pool] = {s: _pool(samples[s], labels[s], cfg.captions) for s in samples}
    return Source(pools, classes, identity(shards), left_out)


def list_samples(shard: Path) -> Iterator[Sample]:
    """The samples of one shard in order. Raises DataError if it is cut short: nobody knows what is missing."""
    sample, end = None, 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                key, ending = split_name(member.name)
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(shard, key)
                sample.files[ending.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as e:
        raise DataError(f"{shard} is cut short or is no tar file ({e}); fetch it again, or remove it") from None
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK) or shard.stat().st_size - end > PADDING:
            last = sample.key if sample else "its beginning"
            raise DataError(f"{shard} is cut short after {last!r}; fetch it again, or remove it")
    if sample is not None:
        yield sample


def split_name(name: str) -> tuple[str, str]:
    """a/b.seg.png -> a/b, seg.png: WebDataset's rule."""
    folder, _, base = name.rpartition("/")
    key, _, ending = base.partition(".")
    return f"{folder}/{key}" if folder else key, ending


def expand(pattern: str) -> list[str]:
    """s3://b/train-{000..009}.tar::s3://b/test-0.tar -> the addresses it stands for."""
    found = []
    for url in pattern.split("::"):
        match = re.search(r"\{(\d+)\.\.(\d+)\}", url)
        if match is None:
            found.append(url)
            continue
        low, high = match.groups()
        numbers = (f"{i:0{len(low)}d}" for i in range(int(low), int(high) + 1))
        found += [address for n in numbers for address in expand(url[: match.start()] + n + url[match.end() :])]
    return found


def fetch(url: str) -> Path:
    """Download a shard, unless the cache of downloads holds it. Returns the file."""
    fsspec = optional("fsspec", "webdataset")
    copy = scratch_root() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rsplit("/")[-1]
    if copy.is_file():
        return copy
    try:
        with new_file(copy) as tmp:
            fs, path = fsspec.url_to_fs(url)
            fs.get_file(path, str(tmp))
    except ImportError as e:
        raise DataError(f"data.url: {url} needs another package ({e}): pip install '.[webdataset]'") from None
    except Exception as e:  # every file system has exception types of its own
        reason = " ".join(str(e).split()) or type(e).__name__
        raise DataError(f"data.url: {url} could not be fetched ({reason})") from None
    return copy


def _class_names(file: Path) -> tuple[str, ...]:
    """The lines of classes.txt, if it is there."""
    return tuple(file.read_text("utf-8-sig").rstrip().splitlines() if file.is_file() else ())


def _label(sample: Sample, cfg: DataConfig, names: tuple[str, ...]) -> tuple[int, str]:
    """The sample's label, and why it cannot be used, "" if it can."""
    if len(sample.images) != 1:
        return 0, f"several images: {', '.join(sample.images)}" if sample.images else "no image"
    if cfg.captions != NONE and cfg.captions not in sample.files:
        return 0, f"no .{cfg.captions}"
    if LABEL not in sample.files:
        return 0, ""
    text = sample.read(LABEL).decode(errors="replace").strip()
    if not text.isdecimal() or (names and int(text) >= len(names)):
        return 0, f".{LABEL} is {text!r}, not a label"
    return int(text), ""


def _pool(samples: list[Sample], labels: list[int], captions: str) -> Pool:
    def read(i: int) -> Record:
        sample: Any = samples[i]
        caption = None if captions == NONE else sample.read(captions).decode()
        if caption is not None and not caption.strip():
            raise ValueError(f".{captions} is empty")
        return Record(Image.open(io.BytesIO(sample.read(sample.images[0]))), labels[i], caption)

    return LazyPool([f"{s.shard.name}/{s.key}" for s in samples], read)
