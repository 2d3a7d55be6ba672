"""Features kept between runs, by what made them: one more measure or sampler computes only what is new.

The store lies with the checkpoints, outside DVC: it saves time, and nothing depends on it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.storage.checkpoint import scratch_root
from dmd.storage.files import sha256, write_text
from evaluation.metrics.schema import Scores
from evaluation.models.features import Extractor, extract

ROOT = Path(__file__).resolve().parents[2]
MEASURES = ("evaluation/metrics", "evaluation/statistics")  # folders whose code decides the scores
CODE = ("dmd", "evaluation/models", "evaluation/features")  # folders whose code decides the features
LARGEST = 2**31  # bytes of the store; the entries that were not used for longest go first
LIST = TypeAdapter(list[Scores])
IMAGES = 2**29  # bytes of one set of images that are kept: larger sets are made again for a new extractor


class FeatureStore:
    """Features [N, D] of image sets, per extractor, and small sets of images."""

    def __init__(self, folder: Path, extractors: dict[str, str]) -> None:
        """extractors: what identifies each of them, such as the sha256 of its weights."""
        self.folder, self.extractors = folder, extractors
        self.code = _hash(CODE)

    @classmethod
    def default(cls, extractors: dict[str, str]) -> "FeatureStore":
        """In the project's scratch folder."""
        return cls(scratch_root() / "features", extractors)

    def features(
        self,
        made_by: dict[str, Any],
        extractors: dict[str, Extractor],
        make: Callable[[], Iterable[Tensor]],
        keep_images: bool = True,
    ) -> dict[str, Tensor]:
        """The features per extractor of the images that `make` yields in batches; made_by: all they depend on.

        keep_images: for an extractor that is added later; False where they lie on disk anyway.
        """
        paths = {name: self._path(made_by, name) for name in extractors}
        found = {name: f for name, path in paths.items() if (f := _read(path, "features")) is not None}
        missing = {name: e for name, e in extractors.items() if name not in found}
        if missing:
            images = _read(picture := self._path(made_by, "images"), "images")
            batches, kept = (
                (make(), _Kept(IMAGES if keep_images else 0)) if images is None else (images.split(512), None)
            )
            made = extract(missing, batches if kept is None else kept.watch(batches))
            for name, features in made.items():
                _write(paths[name], {"features": features})
            if kept is not None and kept.images:
                _write(picture, {"images": torch.cat(kept.images)})
            found |= made
            self._prune()
        return {name: found[name] for name in extractors}

    def scores(self, made_by: dict[str, Any], compute: Callable[[], list[Scores]]) -> list[Scores]:
        """The measures of one set of features and of its parts, computed where they are not known."""
        key = {"made_by": made_by, "code": _hash(MEASURES)}
        path = self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
        try:
            return LIST.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            scores = compute()
            write_text(path, LIST.dump_json(scores).decode())
            return scores

    def _path(self, made_by: dict[str, Any], what: str) -> Path:
        key = {"made_by": made_by, "what": what, "extractor": self.extractors.get(what), "code": self.code}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def _prune(self) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > LARGEST:
                file.unlink(missing_ok=True)


class _Kept:
    """Images that pass by, kept until they are too many."""

    def __init__(self, most: int) -> None:
        self.images: list[Tensor] = []
        self.bytes, self.most = 0, most

    def watch(self, batches: Iterable[Tensor]) -> Iterable[Tensor]:
        for batch in batches:
            self.bytes += batch.numel()
            self.images = [*self.images, batch] if self.bytes <= self.most else []
            yield batch


def _hash(folders: Sequence[str]) -> str:
    """Hash of the Python files in folders of the project."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256("".join(sha256(f) for f in files).encode()).hexdigest()


def _read(path: Path, name: str) -> Tensor | None:
    """What was stored, or None; a damaged file counts as none."""
    try:
        tensor = load_file(path)[name]
    except (OSError, SafetensorError, KeyError):
        return None
    path.touch()
    return tensor


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(f".{os.getpid()}.tmp")  # two runs may make the same entry at once
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp)
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)
