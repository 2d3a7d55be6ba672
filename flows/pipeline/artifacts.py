"""Artifacts of a run in the Prefect UI: a progress bar for each stage, the table, the samples and the links."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from dmd.config import load_params
from evaluation.metrics.files import read_metrics
from evaluation.metrics.schema import read_model
from evaluation.report.html import embed_png
from evaluation.report.table import format_cells, summary_table
from evaluation.timing.schema import Timing
from flows.registry.description import describe_result
from flows.registry.model_card import markdown
from flows.registry.result import METRICS, REPORT, SAMPLES, TIMING
from flows.registry.store import shown_uri
from flows.runtime.errors import one_line

PERCENT = re.compile(r"\((\d+) %\)")
STEP = 5  # percent between two updates; each is a request to the server

Log = Callable[[str], None]


class ProgressArtifact:
    """Logs the lines of a stage and updates its progress bar from each line that contains a percentage."""

    def __init__(self, stage: str, log: Log) -> None:
        self.stage, self.log = stage, log
        self.artifact: UUID | None = None
        self.percent = 0
        self.failed = False

    def __call__(self, line: str) -> None:
        self.log(line)
        if self.failed or not (match := PERCENT.search(line)):
            return
        try:
            self._update(int(match[1]))
        except Exception as e:  # no failure of the server may end a stage that trains for days
            self.failed = True
            self.log(f"the Prefect UI no longer shows the progress of this stage: {one_line(e)}")

    def _update(self, percent: int) -> None:
        if self.artifact is None:
            key = f"progress-{self.stage.replace('_', '-')}"
            self.artifact = create_progress_artifact(float(percent), key=key, description=f"stage {self.stage}")  # type: ignore[assignment]
        elif percent == 100 or abs(percent - self.percent) >= STEP:
            update_progress_artifact(self.artifact, progress=float(percent))
        else:
            return
        self.percent = percent


def create_result_artifacts(root: Path, run_id: str) -> None:
    """Create artifacts for the table, the samples, and the links to the MLflow run and to the report."""
    metrics, timing = read_metrics(root / METRICS), read_model(Timing, root / TIMING)
    table = markdown(format_cells(summary_table(metrics, timing)))
    words = describe_result(root, load_params(root / "params.yaml"), metrics)
    create_markdown_artifact(f"FD, student over best teacher: {metrics.ratio}\n\n{table}\n\n{words}\n", key="result")
    picture = str(embed_png((root / SAMPLES).read_bytes()))
    create_image_artifact(picture, key="samples", description="real, teacher, student")
    link_run(root, run_id)
    store = shown_uri(root)
    if store.startswith("http"):
        page = f"{store}/get-artifact?path=report/{REPORT.name}&run_uuid={run_id}"
        create_link_artifact(page, link_text="the report", key="report")


def link_run(root: Path, run_id: str) -> None:
    """Create an artifact with the link to a run, if the store is a server."""
    store = shown_uri(root)
    if store.startswith("http"):
        create_link_artifact(f"{store}/#/runs/{run_id}", link_text="the run in MLflow", key="mlflow-run")
