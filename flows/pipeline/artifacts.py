"""What a run shows in the Prefect UI beside its states: how far a stage is, the table, the pictures, the links."""

import base64
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

from evaluation.metrics.schema import Metrics, read_model
from evaluation.report.table import format_cells, summary_table
from evaluation.timing.schema import Timing
from flows.registry.model_card import markdown
from flows.registry.result import METRICS, REPORT, SAMPLES, TIMING
from flows.registry.store import tracking_uri
from flows.runtime.errors import one_line

PERCENT = re.compile(r"\((\d+) %\)")
STEP = 5  # percent between two updates: each is a request to the server


Log = Callable[[str], None]


class ProgressArtifact:
    """Hands a stage's lines on, and moves its bar in the UI where a line says how far it is."""

    def __init__(self, stage: str, log: Log) -> None:
        self.stage, self.log = stage, log
        self.artifact: UUID | None = None
        self.shown = 0
        self.lost = False

    def __call__(self, line: str) -> None:
        self.log(line)
        if self.lost or not (found := PERCENT.search(line)):
            return
        try:
            self._show(int(found[1]))
        except Exception as e:  # whatever ails the server, a stage of days must not end for its bar
            self.lost = True
            self.log(f"its progress is no longer shown in the Prefect UI: {one_line(e)}")

    def _show(self, percent: int) -> None:
        if self.artifact is None:
            key = f"progress-{self.stage.replace('_', '-')}"
            self.artifact = create_progress_artifact(float(percent), key=key, description=f"stage {self.stage}")  # type: ignore[assignment]
        elif percent == 100 or abs(percent - self.shown) >= STEP:
            update_progress_artifact(self.artifact, progress=float(percent))
        else:
            return
        self.shown = percent


def show_result(root: Path, run_id: str) -> None:
    """Table, pictures, and where the run and the report are."""
    metrics, timing = read_model(Metrics, root / METRICS), read_model(Timing, root / TIMING)
    ratios = ", ".join(f"{name} {value:.3f}" for name, value in metrics.ratio.fd.items())
    table = markdown(format_cells(summary_table(metrics, timing)))
    create_markdown_artifact(f"FD, student over best teacher: {ratios}\n\n{table}\n", key="result")
    picture = base64.b64encode((root / SAMPLES).read_bytes()).decode()
    create_image_artifact(f"data:image/png;base64,{picture}", key="samples", description="real, teacher, student")
    store = tracking_uri(root)
    if store.startswith("http"):
        create_link_artifact(f"{store}/#/runs/{run_id}", link_text="the run in MLflow", key="mlflow-run")
        page = f"{store}/get-artifact?path=report/{REPORT.name}&run_uuid={run_id}"
        create_link_artifact(page, link_text="the report", key="report")
