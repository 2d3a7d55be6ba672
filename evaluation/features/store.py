"""Features and scores stored between runs: after a new measure, extractor or sampler, only missing values are computed.

The store lies with the checkpoints, outside DVC. It only saves time: no result depends on it, and an entry that does
not fit its checksum is named and computed again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.storage.files import new_file, sha256
from dmd.storage.scratch import scratch_root
from dmd.storage.seal import is_usable, remove_sealed, write_seal
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.metrics.schema import Scores
from evaluation.models.extractors import Extractor, extract

ROOT = Path(__file__).resolve().parents[2]
SCORES_CODE = ("evaluation/metrics", "evaluation/statistics")  # folders with the code that scores depend on
# Folders with the code that features and judgements depend on.
FEATURES_CODE = ("dmd", "evaluation/models", "evaluation/features", "evaluation/judges")
MAX_BYTES = 2**31  # size of the store; the least recently used entries are deleted first
MAX_IMAGE_BYTES = 2**29  # size of a stored set of images; larger sets are generated again for a new extractor
SCORES_ADAPTER = TypeAdapter(list[Scores])


class FeatureStore:
    """Features [N, D] of image sets per extractor, scores, and small sets of images.

    `source` arguments describe everything that a set of images depends on.
    """

    def __init__(self, folder: Path, extractors: dict[str, str]) -> None:
        """extractors: identity of each extractor, such as the sha256 of its weights."""
        self.folder, self.extractors = folder, extractors
        self.code = _hash_code(FEATURES_CODE)

    @classmethod
    def default(cls, extractors: dict[str, str]) -> "FeatureStore":
        """Store in the project's scratch folder."""
        return cls(scratch_root() / "features", extractors)

    def features(
        self,
        source: dict[str, Any],
        extractors: dict[str, Extractor],
        generate: Callable[[], Iterable[Tensor]],
        keep_images: bool = True,
        work: SharedWork = ALONE,
        batch_size: int = 512,
    ) -> dict[str, Tensor]:
        """Features per extractor of the images that `generate` yields in batches; only missing features are computed.

        keep_images: store the images for an extractor that is added later; unnecessary for images of a data split.
        work: the processes that share the batches; `generate` then yields this process's own, which are not stored.
        batch_size: images in a batch of `generate`, and of the stored images.
        """
        paths = {name: self._path(source, name) for name in extractors}

        def read_stored() -> dict[str, Tensor]:
            return {name: f for name, path in paths.items() if (f := _read(path, "features")) is not None}

        features = work.from_main(read_stored)  # all processes must agree on what is missing
        if missing := {name: e for name, e in extractors.items() if name not in features}:
            image_path = self._path(source, "images")
            images = work.from_main(lambda: _read(image_path, "images"))
            is_kept = keep_images and images is None and work.processes == 1
            buffer = ImageBuffer(MAX_IMAGE_BYTES if is_kept else 0)
            batches = generate() if images is None else work.own(images.split(batch_size))
            computed = extract(missing, buffer.record(batches), work)
            if work.is_main:
                for name, values in computed.items():
                    _write(paths[name], {"features": values})
                if buffer.images:
                    _write(image_path, {"images": torch.cat(buffer.images)})
                self._prune()
            features |= computed
        return {name: features[name] for name in extractors}

    def scores(self, source: dict[str, Any], compute: Callable[[], list[Scores]]) -> list[Scores]:
        """Scores of one set of features and of its parts, computed if they are missing."""
        key = {"made_by": source, "code": _hash_code(SCORES_CODE)}
        path = self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
        if is_usable(path):
            with contextlib.suppress(ValidationError, OSError):  # another process may have removed it
                return SCORES_ADAPTER.validate_json(path.read_bytes())
        scores = compute()
        with _new_entry(path) as tmp:
            tmp.write_bytes(SCORES_ADAPTER.dump_json(scores))
        return scores

    def _path(self, source: dict[str, Any], entry: str) -> Path:
        key = {"made_by": source, "what": entry, "extractor": self.extractors.get(entry), "code": self.code}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def _prune(self) -> None:
        """Delete the least recently used entries beyond MAX_BYTES."""
        files = []
        for file in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process prunes, too
                files.append((file.stat().st_mtime, file.stat().st_size, file))
        total = 0
        for _, size, file in sorted(files, reverse=True):
            total += size
            if total > MAX_BYTES:
                remove_sealed(file)


class ImageBuffer:
    """Keeps the images that pass through it, unless they exceed `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.images: list[Tensor] = []
        self.bytes, self.max_bytes = 0, max_bytes

    def record(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the batches and keep them."""
        for batch in batches:
            self.bytes += batch.numel()
            if self.bytes <= self.max_bytes:
                self.images.append(batch)
            else:
                self.images.clear()
            yield batch


def _hash_code(folders: Sequence[str]) -> str:
    """Hash of the Python files in folders of the project."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256("".join(sha256(f) for f in files).encode()).hexdigest()


def _read(path: Path, name: str) -> Tensor | None:
    """Read a stored tensor and mark it as used; None if the file is missing or damaged."""
    if not is_usable(path):
        return None
    try:
        tensor = load_file(path)[name]
        os.utime(path)
    except (OSError, SafetensorError, KeyError):
        return None
    return tensor


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with _new_entry(path) as tmp:
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp)


@contextlib.contextmanager
def _new_entry(path: Path) -> Iterator[Path]:
    """Yield a temporary path for an entry, which is sealed afterwards.

    Several processes or runs may write one entry at the same time. One that finds a damaged entry may remove the file
    of another before its seal is written; it is then computed again.
    """
    with new_file(path, shared=True) as tmp:
        yield tmp
    with contextlib.suppress(FileNotFoundError):
        write_seal(path)
