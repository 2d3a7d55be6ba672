"""Counts the images that a run prepares. It imports no diffusers, so that a check before a run is quick."""

import json
from pathlib import Path
from typing import Any

from dmd.config import Params
from dmd.preparation.sources import SOURCES

NEEDED = {"source", "image_shape", "counts", "class_names"}  # keys of the manifest that an estimate reads


def read_manifest(params: Params, root: Path) -> dict[str, Any] | None:
    """The manifest of the prepared data; None if it is missing or damaged, or if params have another source or size."""
    try:
        manifest = json.loads((root / "artifacts" / "data" / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not manifest.keys() >= NEEDED:
        return None
    shape = [params.data.channels, params.data.size, params.data.size]
    return manifest if (manifest["source"], manifest["image_shape"]) == (params.data.source, shape) else None


def count_images(params: Params, root: Path) -> int | None:
    """Number of images of all splits; None if it is unknown until stage `data` has read the source."""
    if (manifest := read_manifest(params, root)) is not None:
        return sum(manifest["counts"].values())
    own = SOURCES[params.data.source].images
    if not own:
        return None
    limits = {"train": "all", "validation": params.data.validation, "test": params.data.test}
    return sum(n if limits[split] == "all" else min(n, int(limits[split])) for split, n in own.items())
