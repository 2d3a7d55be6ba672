"""Finds old candidates: registered versions without an alias that are not, and never were, champion."""

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from flows.cleaning.item import Item, size_of
from flows.registry.champion import HISTORY, WITHDRAWN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = re.compile(r"\bm-[0-9a-f]{32}\b")  # id of a logged model
LOCK_HASH, DATA_HASH, COMMIT = "dvc.lock.sha256", "dvc.data.md5", "git.sha"  # tags of a version


def find_old_candidates(client: "MlflowClient", name: str, keep: int, locks: set[str]) -> Iterator[Item]:
    """Yield the versions beyond the `keep` newest ones that nothing refers to.

    A version is kept if it has an alias, was champion, or is the result of a dvc.lock whose sha256 is in `locks`: those
    of branches, tags, experiments and working folders. Its MLflow run, with parameters and figures, stays in any case.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        return
    model = client.get_registered_model(name)
    history = {v for v in model.tags.get(HISTORY, "").split(",") if v}
    versions = _versions(client, name)
    withdrawn = {str(version.version) for version in versions if WITHDRAWN in version.tags}  # by a rollback
    named = {str(version) for version in model.aliases.values()} | history | withdrawn
    for version in versions[keep:]:
        if str(version.version) not in named and version.tags.get(LOCK_HASH) not in locks:
            files = _files(client, version)
            size = size_of(files) if files else 0
            yield Item("old candidate", f"{name} version {version.version}", size, partial(_remove, client, version))


def find_tags(client: "MlflowClient", name: str) -> tuple[set[str], set[str]]:
    """Return the commits of all versions of a model, and the md5 of their data."""
    tags = [version.tags for version in _versions(client, name)]
    return tuple({t[key] for t in tags if key in t} for key in (COMMIT, DATA_HASH))  # type: ignore[return-value]


def _versions(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    """Return the versions of a model, the newest first."""
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version), reverse=True)


def _logged_model(version: "ModelVersion") -> str | None:
    """Return the id of the logged model of a version, which a database keeps in the version's source alone."""
    found = MODEL.search(version.source or "")
    return version.model_id or (found[0] if found else None)


def _files(client: "MlflowClient", version: "ModelVersion") -> Path | None:
    """Return the folder of a version's files; None if a server keeps them.

    The address comes from the store, which other users may write to: a folder that is not the model's own stays.
    """
    model = _logged_model(version)
    if model is None:
        return None
    place = urlsplit(client.get_logged_model(model).artifact_location)
    folder = Path(unquote(place.path))
    is_own = place.scheme in ("", "file") and model in folder.parts and ".." not in folder.parts
    return folder if is_own else None


def _remove(client: "MlflowClient", version: "ModelVersion") -> None:
    """Delete a version, its logged model and its files. A server keeps the files until `mlflow gc`."""
    files, model = _files(client, version), _logged_model(version)
    client.delete_model_version(version.name, str(version.version))
    if model:
        client.delete_logged_model(model)
    if files:
        shutil.rmtree(files, ignore_errors=True)
