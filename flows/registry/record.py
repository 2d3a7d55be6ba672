"""What DVC's record says of the result in a workspace: hashes, parameters, measures, and where they come from."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dmd.config import Params, load_params
from dmd.errors import UserError
from dmd.storage.files import sha256
from flows.pipeline.graph import changed
from flows.runtime.roots import git

GENERATOR = Path("artifacts/generator")
DATA = Path("artifacts/data")
PROGRESS = Path("artifacts/training")
METRICS = Path("reports/metrics.json")
TIMING = Path("reports/timing.json")
LOSSES = Path("reports/losses.csv")
SAMPLES = Path("reports/samples.png")
REPORT = Path("reports/index.html")
PLOTS = Path("reports/plots")

RESULT = "result.sha256"  # the tag by which a run and a model version are found again


@dataclass(frozen=True)
class Record:
    """One result, checked to be what dvc.lock describes."""

    root: Path
    params: Params
    result: str  # sha256 of generator and measures
    metrics: dict[str, Any]
    timing: dict[str, Any]
    data_md5: str


def read_record(root: Path) -> Record:
    """Raises UserError where the workspace holds something else than DVC's record of it."""
    if stale := changed(root):
        raise UserError(f"the workspace is not what dvc.lock records: {', '.join(stale)}; run `dvc repro` first")
    for path in (GENERATOR, METRICS, TIMING, LOSSES, SAMPLES, REPORT, PLOTS):
        if not (root / path).exists():
            raise UserError(f"{path} is missing: the pipeline has not made it; run `dvc repro` first")
    metrics = json.loads((root / METRICS).read_text())
    canonical = json.dumps(metrics, sort_keys=True, separators=(",", ":"))
    result = hashlib.sha256(f"{sha256(root / GENERATOR)}\n{canonical}".encode()).hexdigest()
    timing = json.loads((root / TIMING).read_text())
    return Record(root, load_params(root / "params.yaml"), result, metrics, timing, _out_md5(root, DATA))


def _out_md5(root: Path, path: Path) -> str:
    lock = YAML(typ="safe").load(root / "dvc.lock")
    for stage in lock["stages"].values():
        for out in stage.get("outs", []):
            if Path(out["path"]) == path:
                return out["md5"]
    raise UserError(f"dvc.lock has no out {path}; run `dvc repro` first")


def lineage(record: Record, flow_run: str | None, experiment: str | None = None) -> dict[str, str]:
    """Tags that say where the result comes from, and who publishes it; experiment is its name in DVC."""
    root = record.root
    sha = git(root, "rev-parse", "HEAD") or "none"
    tags = {
        RESULT: record.result,
        "git.sha": sha,
        "git.dirty": str(_is_dirty(root)).lower(),
        "mlflow.source.git.commit": sha,
        "dvc.lock.sha256": sha256(root / "dvc.lock"),
        "dvc.data.md5": record.data_md5,
        "params.sha256": sha256(root / "params.yaml"),
        "publisher.host": socket.gethostname(),
        "publisher.pid": str(os.getpid()),
    }
    if name := experiment or os.environ.get("DVC_EXP_NAME"):
        tags["dvc.exp.name"] = name
    if flow_run:
        tags["prefect.flow_run_id"] = flow_run
    return tags


def _is_dirty(root: Path) -> bool:
    """Changed code: params.yaml is kept with the run; dvc.lock and reports are what a run itself writes."""
    own = (":(exclude)params.yaml", ":(exclude)dvc.lock", ":(exclude)reports")
    return git(root, "status", "--porcelain", "--", ".", *own) != ""


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts under dotted names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The leaves that MLflow can hold as metrics."""
    leaves = flatten(tree, prefix)
    return {k: float(v) for k, v in leaves if isinstance(v, int | float) and not isinstance(v, bool)}
