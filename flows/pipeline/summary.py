"""The last words of a run: one table, where everything is, and what to type next."""

import json
import os
import shutil
import sys
from pathlib import Path

from dmd.config import load_params
from evaluation.metrics.schema import Metrics, read_model
from evaluation.report.table import format_table, summary_table
from evaluation.timing.schema import Timing
from flows.registry.result import GENERATOR, METRICS, REPORT, TIMING
from flows.registry.store import database, tracking_uri
from flows.registry.versions import CANDIDATE


def summary(root: Path, version: str) -> str:
    """Teacher and student side by side, the report, the model version, the next commands."""
    metrics, timing = read_model(Metrics, root / METRICS), read_model(Timing, root / TIMING)
    params = load_params(root / "params.yaml")
    ratios = ", ".join(f"{value:.3f} on {name} features" for name, value in metrics.ratio.fd.items())
    uri = tracking_uri(root)
    lines = [
        format_table(summary_table(metrics, timing)),
        "",
        f"FD, student / best teacher: {ratios}",
        f"report:  {REPORT}",
        f"model:   {params.register_.name} version {version}, models:/{params.register_.name}@{CANDIDATE}",
        f"MLflow:  {uri}",
        "",
        "next:",
        *(f"  {command}" for command in _next(root, uri, params.register_.name)),
    ]
    return "\n".join(lines)


def _next(root: Path, uri: str, name: str) -> list[str]:
    classes = json.loads((root / GENERATOR / "generator.json").read_text()).get("classes", [])
    labels = ",".join(str(i) for i in range(min(3, max(1, len(classes)))))
    ui = f"mlflow ui --backend-store-uri '{uri}'" if database(uri) else f"open {uri}"
    return [
        f"{'open' if sys.platform == 'darwin' else 'xdg-open'} {REPORT}",
        *_activate(root),
        f"python -m dmd.sample --generator {GENERATOR} --labels {labels} --seed 0 --out grid.png",
        "dvc exp run -S train.seed=1    # only train and evaluate run again; then: dvc exp show",
        f"{ui}    # runs, and versions of {name}",
    ]


def _activate(root: Path) -> list[str]:
    """The command that activates this environment, unless it is active: DVC's stages call `python` by that name."""
    folder = Path(sys.executable).parent
    if shutil.which("python") == str(folder / "python"):
        return []
    return [f"source {os.path.relpath(folder, root) if folder.is_relative_to(root) else folder}/activate"]
