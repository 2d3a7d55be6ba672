"""Prefect over DVC's graph, and MLflow from DVC's record. Imports go one way: flows -> stages -> evaluation -> dmd."""

import os
from pathlib import Path

from flows.runtime.roots import prefect_database

DEFAULTS = {
    # Nothing is reported to anybody. MLflow takes "true", not "1".
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # Migrating a new database takes half a minute on a busy machine, and Prefect's own limit is 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Signs of life of a run. Prefect's own 180 seconds are longer than the silence after which a run counts as lost.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # MLflow's own seven retries keep a user waiting for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONUNBUFFERED": "1",
}


def _set_defaults() -> None:
    """Must come before prefect or mlflow is imported; whatever the user has set stands."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Only the temporary server reads this: one that PREFECT_API_URL or a profile names has a database of its own.
    if "PREFECT_API_DATABASE_CONNECTION_URL" not in os.environ:
        database = prefect_database(Path(__file__).parents[1])
        os.environ.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{database}")


_set_defaults()
