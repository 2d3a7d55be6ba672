"""The result in a workspace, checked against dvc.lock: parameters, measures, hashes and lineage."""

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
from dmd.storage.recorded import check_recorded
from evaluation.metrics.files import DETAILS as DETAILS_NAME
from evaluation.metrics.files import read_metrics
from evaluation.metrics.schema import Metrics, read_model
from evaluation.timing.schema import Timing
from flows.runtime.git import git
from flows.workspace.repro import wait_for_stale

GENERATOR = Path("artifacts/generator")
DATA = Path("artifacts/data")
TRAINING = Path("artifacts/training")
METRICS = Path("reports/metrics.json")
DETAILS = METRICS.with_name(DETAILS_NAME)
TIMING = Path("reports/timing.json")
LOSSES = Path("reports/losses.csv")
TEACHER_LOSSES = Path("reports/teacher_losses.csv")
SAMPLES = Path("reports/samples.png")
QUALITY = Path("reports/quality.csv")
REPORT = Path("reports/index.html")
PLOTS = Path("reports/plots")
PUBLISHED = (GENERATOR, TRAINING, METRICS, DETAILS, TIMING, LOSSES, SAMPLES, REPORT, PLOTS)

EXPERIMENT = "dvc.exp.name"  # tag of a run
RESULT = "result.sha256"  # tag that identifies the result of an MLflow run and of a model version


@dataclass(frozen=True)
class Result:
    """One result of the pipeline, in step with dvc.lock."""

    root: Path
    params: Params
    digest: str  # sha256 of generator and measures
    metrics: Metrics
    timing: Timing
    data_md5: str


def load_result(root: Path) -> Result:
    """Read the result of the workspace, after any other DVC process there has freed its lock.

    Raises UserError if a file is missing or differs from dvc.lock.
    """
    if stale := wait_for_stale(root):
        raise UserError(f"the workspace differs from dvc.lock in {', '.join(stale)}; run `dvc repro` first")
    for path in PUBLISHED:
        if not (root / path).exists():
            raise UserError(f"{path} is missing; run `dvc repro` first")
    check_recorded([root / path for path in PUBLISHED], root)
    metrics, timing = read_metrics(root / METRICS), read_model(Timing, root / TIMING)
    canonical = json.dumps(metrics.model_dump(), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{sha256(root / GENERATOR)}\n{canonical}".encode()).hexdigest()
    return Result(root, load_params(root / "params.yaml"), digest, metrics, timing, _output_md5(root, DATA))


def _output_md5(root: Path, path: Path) -> str:
    lock = YAML(typ="safe").load(root / "dvc.lock")
    for stage in lock["stages"].values():
        for out in stage.get("outs", []):
            if Path(out["path"]) == path:
                return out["md5"]
    raise UserError(f"dvc.lock has no output {path}; run `dvc repro` first")


def locate_weights(root: Path) -> dict[str, str]:
    """Tags that say where the weights of the generator are: their path in DVC's record, and their hash there."""
    return {"dvc.path": GENERATOR.as_posix(), "dvc.md5": _output_md5(root, GENERATOR)}


def lineage_tags(result: Result, flow_run: str | None, experiment: str | None = None) -> dict[str, str]:
    """MLflow tags for the origin of a result and for the publishing process; `experiment` is the DVC experiment."""
    return {
        RESULT: result.digest,
        **origin_tags(result.root, flow_run, experiment),
        "dvc.lock.sha256": sha256(result.root / "dvc.lock"),
        "dvc.data.md5": result.data_md5,
    }


def origin_tags(root: Path, flow_run: str | None, experiment: str | None) -> dict[str, str]:
    """Return the tags of `lineage_tags` that are known before there is a result."""
    sha = git(root, "rev-parse", "HEAD") or "none"
    tags = {
        "git.sha": sha,
        "git.dirty": str(_is_dirty(root)).lower(),
        "mlflow.source.git.commit": sha,
        "params.sha256": sha256(root / "params.yaml"),
        "publisher.host": socket.gethostname(),
        "publisher.pid": str(os.getpid()),
    }
    if name := experiment or os.environ.get("DVC_EXP_NAME"):
        tags[EXPERIMENT] = name
    if flow_run:
        tags["prefect.flow_run_id"] = flow_run
    return tags


def _is_dirty(root: Path) -> bool:
    """Whether code has uncommitted changes. params.yaml is stored with the run; a run writes dvc.lock and reports."""
    ignored = (":(exclude)params.yaml", ":(exclude)dvc.lock", ":(exclude)reports")
    return git(root, "status", "--porcelain", "--", ".", *ignored) != ""


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts under dotted names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
