"""The text that a run prints at its end: a table, where the results are, and the next commands."""

import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

from dmd.config import load_params
from evaluation.metrics.schema import Metrics, read_model
from evaluation.report.table import format_table, summary_table
from evaluation.timing.schema import Timing
from flows.registry.caption import describe_result
from flows.registry.result import GENERATOR, METRICS, REPORT, TIMING
from flows.registry.store import database, shown_uri
from flows.registry.versions import CANDIDATE

WIDTH = 120  # columns of a terminal that the text fits


def summarize(root: Path, version: str) -> str:
    """Return teacher and student in a table, the report, the model version and the next commands."""
    metrics, timing = read_model(Metrics, root / METRICS), read_model(Timing, root / TIMING)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    uri = shown_uri(root)
    lines = [
        format_table(summary_table(metrics, timing)),
        "",
        *textwrap.wrap(describe_result(root, params, metrics, headline=True), WIDTH),
        "",
        f"FD, student / best teacher: {metrics.ratio}",
        f"report:  {REPORT}",
        f"model:   {name} version {version}, models:/{name}@{CANDIDATE}",
        f"MLflow:  {uri}",
        "",
        "next:",
        *(f"  {command}" for command in _suggest_commands(root, uri, name)),
    ]
    return "\n".join(lines)


def _suggest_commands(root: Path, uri: str, name: str) -> list[str]:
    classes = json.loads((root / GENERATOR / "generator.json").read_text()).get("classes", [])
    labels = ",".join(str(i) for i in range(min(3, max(1, len(classes)))))
    ui = f"mlflow ui --backend-store-uri '{uri}'" if database(uri) else f"open {uri}"
    return [
        f"{'open' if sys.platform == 'darwin' else 'xdg-open'} {REPORT}",
        *_activation(root),
        f"python -m dmd.sample --generator {GENERATOR} --labels {labels} --seed 0 --out grid.png",
        "dvc exp run -S train.seed=1    # runs train and evaluate only; then: dvc exp show",
        f"{ui}    # runs, and versions of {name}",
    ]


def _activation(root: Path) -> list[str]:
    """Return the command that activates this environment; an empty list if it is active.

    DVC's stages call `python`, which must be this interpreter.
    """
    folder = Path(sys.executable).parent
    if shutil.which("python") == str(folder / "python"):
        return []
    return [f"source {os.path.relpath(folder, root) if folder.is_relative_to(root) else folder}/activate"]
