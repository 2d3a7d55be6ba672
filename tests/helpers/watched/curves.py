"""The curves of a finished MLflow run, compared with the tables of its result."""

from pathlib import Path

import pandas as pd
from mlflow import MlflowClient

CURVES = {"train/": ("losses.csv", "turn"), "teacher/": ("teacher_losses.csv", "step")}


def read_points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    """The points of a curve, in the order of their steps."""
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))


def check_curves(project: Path, client: MlflowClient, run_id: str) -> None:
    """Assert that every figure of the tables is a point of the run, and that each step has one point."""
    for group, (file, axis) in CURVES.items():
        table = pd.read_csv(project / "reports" / file).set_index(axis).select_dtypes("number")
        assert len(table)
        for column in table:
            wanted = [(int(step), value) for step, value in table[column].dropna().items()]  # type: ignore[call-overload]
            assert read_points(client, run_id, f"{group}{column}") == wanted, column
