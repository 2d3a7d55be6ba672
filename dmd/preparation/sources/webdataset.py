"""WebDataset shards: tar files in which the files of a sample share their name up to the first dot."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dmd.config import NONE, DataConfig
from dmd.errors import DataError
from dmd.preparation.pictures import SUFFIXES, max_file_bytes, open_picture
from dmd.preparation.sources.base import (
    CHARACTER_BYTES,
    MAX_SHOWN,
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
from dmd.preparation.sources.listing import count_endings, is_ignored
from dmd.preparation.sources.tar import Member, list_members
from dmd.storage.files import new_file
from dmd.storage.scratch import scratch_root

LABEL, CLASS_NAMES = "cls", "classes.txt"
LABEL_BYTES = 64  # of a file with a label
CLASS_NAMES_BYTES = 2**24  # of classes.txt
MAX_SHARDS = 100_000  # in data.url
IMAGES_NAMED = 3  # in the reason why a sample with several cannot be used


@dataclass
class Sample:
    """A sample: the shard that holds it, and its files by suffix."""

    shard: Path
    key: str
    files: dict[str, Member] = field(default_factory=dict)
    fault: str = ""  # why it cannot be used

    def read(self, suffix: str, limit: int) -> bytes:
        """Read one file of the sample. Raises ValueError for more than `limit` bytes, or a file that cannot be read."""
        member = self.files[suffix]
        if member.size > limit:
            raise ValueError(f".{suffix} has {member.size:,} bytes, more than the {limit:,} that are read")
        return member.read(self.shard)

    @property
    def images(self) -> list[str]:
        """The suffixes of its pictures; if some have no dot, only those, such as png beside depth.png."""
        suffixes = [s for s in self.files if f".{s.rsplit('.')[-1]}" in SUFFIXES]
        return [s for s in suffixes if "." not in s] or suffixes


def webdataset(cfg: DataConfig) -> Source:
    """List every sample of the shards; a shard's name says its split, as test-000.tar does."""
    folder = Path(cfg.folder)
    beside: list[str] = []
    if cfg.folder != NONE:
        shards, beside = _find_shards(folder)
    else:
        shards = [fetch(url) for url in expand_url(cfg.url)]
    names = _read_class_names(folder / CLASS_NAMES)
    left_out: list[Skipped] = []
    samples: dict[str, list[Sample]] = {}
    labels: dict[str, list[int]] = {}
    for shard in shards:
        split = find_split(shard.name)
        samples.setdefault(split, [])
        labels.setdefault(split, [])
        for sample in list_samples(shard):
            label, fault = _read_label(sample, cfg, names)
            if fault:
                left_out.append(Skipped(split, f"{shard.name}/{sample.key}", fault))
                continue
            samples[split].append(sample)
            labels[split].append(label)
    pools: dict[str, Pool] = {s: _pool(samples[s], labels[s], cfg) for s in samples}
    return Source(pools, _class_names(names, samples, labels), hash_files(shards), left_out, count_endings(beside))


def _find_shards(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the shards of a folder, and the names of the files beside them. Raises DataError without a shard."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not is_ignored(p.name)]
    shards = [p for p in files if p.suffix.lower() == ".tar"]
    if not shards:
        raise DataError(f"data.folder: {folder} has no .tar file")
    return shards, [p.name for p in files if p not in shards and p.name != CLASS_NAMES]


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
    numbers = [label for part in labels.values() for label in part]  # in the order of `everything`
    highest = max(numbers)
    if not names and highest >= len(everything):
        sample = everything[numbers.index(highest)]
        raise DataError(
            f"{sample.shard}: sample {sample.key!r} has the label {highest}, but labels count from 0, and there are "
            f"only {len(everything)} samples"
        )
    return names or tuple(str(i) for i in range(highest + 1))


def list_samples(shard: Path) -> Iterable[Sample]:
    """Return the samples of a shard in order. Raises DataError if the shard is truncated."""
    samples: dict[str, Sample] = {}
    for member in list_members(shard):
        if is_ignored(Path(member.name).name):
            continue
        key, suffix = split_name(member.name)
        sample = samples.setdefault(key, Sample(shard, key))
        if suffix.lower() in sample.files:
            sample.fault = f"two files .{suffix.lower()}"
        sample.files[suffix.lower()] = member
    return samples.values()


def split_name(name: str) -> tuple[str, str]:
    """Split a file's name into key and suffix by WebDataset's rule: a/b.seg.png gives a/b and seg.png."""
    folder, _, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}/{key}" if folder else key, suffix


def expand_url(pattern: str) -> list[str]:
    """Return the addresses of a pattern such as s3://b/train-{000..009}.tar::s3://b/test-0.tar.

    Raises DataError for more than MAX_SHARDS.
    """
    urls = []
    for url in pattern.split("::"):
        match = re.search(r"\{(\d{1,18})\.\.(\d{1,18})\}", url)
        if match is None:
            urls.append(url)
            continue
        low, high = match.groups()
        for i in range(int(low), int(high) + 1):
            urls += expand_url(f"{url[: match.start()]}{i:0{len(low)}d}{url[match.end() :]}")
            if len(urls) > MAX_SHARDS:
                raise DataError(f"data.url: {pattern[:MAX_SHOWN]} names more than {MAX_SHARDS:,} shards; use fewer")
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
    if not file.is_file():
        return ()
    if file.stat().st_size > CLASS_NAMES_BYTES:
        raise DataError(f"{file} has {file.stat().st_size:,} bytes; class names take at most {CLASS_NAMES_BYTES:,}")
    try:
        return tuple(file.read_text("utf-8-sig").rstrip().splitlines())
    except UnicodeDecodeError as e:
        raise DataError(f"{file} is not UTF-8 text: {e}") from None


def _read_label(sample: Sample, cfg: DataConfig, names: tuple[str, ...]) -> tuple[int, str]:
    """Return the sample's label, and the reason why the sample cannot be used, "" if it can."""
    if sample.fault:
        return 0, sample.fault
    if len(sample.images) != 1:
        more = f" and {n} more" if (n := len(sample.images) - IMAGES_NAMED) > 0 else ""
        first = ", ".join(sample.images[:IMAGES_NAMED])
        return 0, f"several images: {first}{more}" if sample.images else "no image"
    if cfg.captions != NONE and cfg.captions not in sample.files:
        return 0, f"no .{cfg.captions}"
    if LABEL not in sample.files:
        return 0, ""
    try:
        text = sample.read(LABEL, LABEL_BYTES).decode(errors="replace").strip()
    except ValueError as e:
        return 0, str(e)
    if not text.isdecimal() or (names and int(text) >= len(names)):
        return 0, f".{LABEL} is {text!r}, not a label"
    return int(text), ""


def _pool(samples: list[Sample], labels: list[int], cfg: DataConfig) -> Pool:
    def read(i: int) -> Record:
        sample, caption = samples[i], None
        if cfg.captions != NONE:
            caption = sample.read(cfg.captions, CHARACTER_BYTES * cfg.max_caption).decode()
            if not caption.strip():
                raise ValueError(f".{cfg.captions} is empty")
        picture = sample.read(sample.images[0], max_file_bytes(cfg.max_pixels))
        return Record(open_picture(picture, cfg.max_pixels), labels[i], caption)

    return LazyPool([f"{s.shard.name}/{s.key}" for s in samples], read)
