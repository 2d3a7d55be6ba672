"""Versions of the registered model: register the workspace's result, look a version up, change the champion.

The newest version has the alias `candidate`; the gate of params.yaml chooses the `champion`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dmd.config import load_params
from dmd.errors import UserError
from flows.registry.champion import CHAMPION, VERDICT, champion, promote, rollback, settle
from flows.registry.mlflow_model import create_version
from flows.registry.result import RESULT, load_result
from flows.registry.store import database, lock_store, open_store, shown_uri, tracking_uri, write_beside_others
from flows.registry.tracking import find_run, publish

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANDIDATE = "candidate"


def register(root: Path, run_id: str) -> str:
    """Return the version that holds the workspace's result; create it if there is none.

    The version gets the alias `candidate`, then the gate chooses the champion. `run_id` is the MLflow run that holds
    the result. Raises UserError if that run holds another result.
    """
    result = load_result(root)
    name = result.params.register_.name
    with lock_store(root) as client:
        version = _find_version(client, name, result.digest) or create_version(client, result, run_id)
        if _candidate(client, name) != version:
            write_beside_others(lambda: client.set_registered_model_alias(name, CANDIDATE, version))
        settle(client, name, result.params.register_.gate)
        return version


def find_registered(root: Path) -> str | None:
    """Look up the version of the workspace's result; None unless it is the candidate and its run is complete."""
    file = database(tracking_uri(root))
    if file and not file.exists():
        return None
    result = load_result(root)
    name = result.params.register_.name
    with open_store(root) as client:
        experiment = client.get_experiment_by_name(result.params.register_.experiment)
        if experiment is None or find_run(client, experiment.experiment_id, result.digest) is None:
            return None
        version = _find_version(client, name, result.digest)
        return version if version and _candidate(client, name) == version else None


def describe(root: Path, version: str) -> str:
    """The gate's verdict on a version, and the champion."""
    name = load_params(root / "params.yaml").register_.name
    with open_store(root) as client:
        verdict = client.get_model_version(name, version).tags.get(VERDICT, "registered without a gate")
        return f"{verdict}; {CHAMPION}: version {champion(client, name) or 'none'}"


def register_workspace(root: Path) -> str:
    """Publish the workspace's result if necessary and register it; return the line to print."""
    version = register(root, publish(root))
    name = load_params(root / "params.yaml").register_.name
    return f"{name} version {version} ({CANDIDATE}): {describe(root, version)}"


def restore_champion(root: Path) -> str:
    """Withdraw the champion and restore its predecessor; return the line to print."""
    cfg = load_params(root / "params.yaml").register_
    with lock_store(root) as client:
        _check_registered(client, cfg.name, root)
        withdrawn, restored = rollback(client, cfg.name)
    return f"{cfg.name} version {withdrawn} withdrawn; {CHAMPION}: version {restored}"


def set_champion(root: Path, version: str) -> str:
    """Make a version champion by hand, or let the gate choose again (`auto`); return the line to print."""
    cfg = load_params(root / "params.yaml").register_
    with lock_store(root) as client:
        _check_registered(client, cfg.name, root)
        return f"{cfg.name}: {CHAMPION}: version {promote(client, cfg.name, version, cfg.gate)}"


def _check_registered(client: "MlflowClient", name: str, root: Path) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        raise UserError(f"{name} is not in the registry of {shown_uri(root)}; python -m flows.distill registers it")


def _candidate(client: "MlflowClient", name: str) -> str:
    return str(client.get_registered_model(name).aliases.get(CANDIDATE))


def _find_version(client: "MlflowClient", name: str, digest: str) -> str | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{RESULT}` = '{digest}'")
    ready = [int(v.version) for v in versions if v.status == "READY"]
    return str(min(ready)) if ready else None
