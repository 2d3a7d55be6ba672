"""WebDataset shards: tar files in which the files of a sample share their name up to the first dot."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.base import (
    NO_CLASSES,
    LazyPool,
    Pool,
    Record,
    Skipped,
    Source,
    find_split,
    hash_files,
    import_optional,
)
from dmd.storage.checkpoint import scratch_root
from dmd.storage.files import new_file

BLOCK = 512  # bytes; a complete archive ends with two blocks of zeros
MAX_PADDING = 2**20  # bytes of zeros after the last file; tar itself pads to 10,240
LABEL, CLASS_NAMES = "cls", "classes.txt"


@dataclass
class Sample:
    """A sample's place in its shard: (offset, size in bytes) of each of its files, by suffix."""

    shard: Path
    key: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, suffix: str) -> bytes:
        """Read one file of the sample."""
        offset, size = self.files[suffix]
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    @property
    def images(self) -> list[str]:
        """The suffixes of its pictures; if some have no dot, only those, such as png beside depth.png."""
        suffixes = [s for s in self.files if f".{s.rsplit('.')[-1]}" in Image.registered_extensions()]
        return [s for s in suffixes if "." not in s] or suffixes


def webdataset(cfg: DataConfig) -> Source:
    """List every sample of the shards; a shard's name says its split, as test-000.tar does."""
    folder = Path(cfg.folder)
    shards = sorted(folder.glob("*.tar")) if cfg.folder != NONE else [fetch(url) for url in expand_url(cfg.url)]
    if not shards:
        raise DataError(f"data.folder: {folder} has no .tar file")
    names = _read_class_names(folder / CLASS_NAMES)
    left_out: list[Skipped] = []
    samples: dict[str, list[Sample]] = {}
    labels: dict[str, list[int]] = {}
    for shard in shards:
        split = find_split(shard.name)
        for sample in list_samples(shard):
            label, fault = _read_label(sample, cfg, names)
            if fault:
                left_out.append(Skipped(split, f"{shard.name}/{sample.key}", fault))
                continue
            samples.setdefault(split, []).append(sample)
            labels.setdefault(split, []).append(label)
    pools: dict[str, Pool] = {s: _pool(samples[s], labels[s], cfg.captions) for s in samples}
    return Source(pools, _class_names(names, samples, labels), hash_files(shards), left_out)


def _class_names(
    names: tuple[str, ...], samples: dict[str, list[Sample]], labels: dict[str, list[int]]
) -> tuple[str, ...]:
    """Return the class names: `names`, otherwise the labels as numbers, or NO_CLASSES without labels.

    Raises DataError if only some samples have a label.
    """
    everything = [sample for part in samples.values() for sample in part]
    if not any(LABEL in sample.files for sample in everything):
        return NO_CLASSES
    if bare := next((sample for sample in everything if LABEL not in sample.files), None):
        raise DataError(f"{bare.shard}: sample {bare.key!r} has no .{LABEL}, but other samples have one")
    highest = max(label for part in labels.values() for label in part)
    return names or tuple(str(i) for i in range(highest + 1))


def list_samples(shard: Path) -> Iterator[Sample]:
    """Yield the samples of a shard in order. Raises DataError if the shard is truncated."""
    sample, end = None, 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                key, suffix = split_name(member.name)
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(shard, key)
                sample.files[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as e:
        raise DataError(f"{shard} is truncated or not a tar file ({e}); fetch it again, or remove it") from None
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK) or shard.stat().st_size - end > MAX_PADDING:
            last = sample.key if sample else "its beginning"
            raise DataError(f"{shard} is truncated after {last!r}; fetch it again, or remove it")
    if sample is not None:
        yield sample


def split_name(name: str) -> tuple[str, str]:
    """Split a file's name into key and suffix by WebDataset's rule: a/b.seg.png gives a/b and seg.png."""
    folder, _, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}/{key}" if folder else key, suffix


def expand_url(pattern: str) -> list[str]:
    """Return the addresses of a pattern such as s3://b/train-{000..009}.tar::s3://b/test-0.tar."""
    urls = []
    for url in pattern.split("::"):
        match = re.search(r"\{(\d+)\.\.(\d+)\}", url)
        if match is None:
            urls.append(url)
            continue
        low, high = match.groups()
        numbers = (f"{i:0{len(low)}d}" for i in range(int(low), int(high) + 1))
        urls += [address for n in numbers for address in expand_url(url[: match.start()] + n + url[match.end() :])]
    return urls


def fetch(url: str) -> Path:
    """Download a shard, unless the cache of downloads holds it. Returns the file."""
    fsspec = import_optional("fsspec", "webdataset")
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


def _read_class_names(file: Path) -> tuple[str, ...]:
    """Read one class name per line; empty without the file."""
    return tuple(file.read_text("utf-8-sig").rstrip().splitlines() if file.is_file() else ())


def _read_label(sample: Sample, cfg: DataConfig, names: tuple[str, ...]) -> tuple[int, str]:
    """Return the sample's label, and the reason why the sample cannot be used, "" if it can."""
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
        sample = samples[i]
        caption = None if captions == NONE else sample.read(captions).decode()
        if caption is not None and not caption.strip():
            raise ValueError(f".{captions} is empty")
        return Record(Image.open(io.BytesIO(sample.read(sample.images[0]))), labels[i], caption)

    return LazyPool([f"{s.shard.name}/{s.key}" for s in samples], read)
