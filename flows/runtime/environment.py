"""Environment variables of this process and of the commands that it starts."""

import os
import sys
from pathlib import Path

from dmd.storage.worktree import main_worktree
from flows.runtime.home import provide_home

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATABASE_URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
SQLITE = "sqlite+aiosqlite:///"
ROOT = "ONESTEP_ROOT"  # environment variable with the project's folder
TAG = "onestep"  # Prefect's tag of every run and deployment of this project, on a server that others use too

DEFAULTS = {
    # No telemetry. MLflow accepts "true", not "1".
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # The migration of a new database takes half a minute on a busy machine; Prefect's default limit is 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Seconds between two heartbeats of a run. Prefect's default of 180 is longer than lost_runs.SILENCE.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # MLflow's default of seven retries takes minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONUNBUFFERED": "1",
}


# Variables of a caller that would lead git or MLflow to another place: git sets the first ones for its hooks, and the
# last ones are those of an MLflow run around this process.
FOREIGN = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"),
    *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
)


def set_defaults(root: Path) -> None:
    """Set variables that the user has not set, and drop those of FOREIGN, before Prefect or MLflow is imported."""
    for name in FOREIGN:
        os.environ.pop(name, None)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    bypass_proxy()
    provide_home(main_worktree(root) / "runs" / "home")
    # Only a temporary server reads this: a server of PREFECT_API_URL or of a profile has its own database.
    if "PREFECT_API_DATABASE_CONNECTION_URL" not in os.environ:
        os.environ.setdefault(DATABASE_URL, sqlite_url(prefect_database(root)))


def bypass_proxy() -> None:
    """Let no request to this machine go through a proxy: it would wait for minutes, or reach another machine."""
    names = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").strip()
    missing = [host for host in LOOPBACK if host not in names.split(",")]
    if names != "*" and missing:
        # Libraries read one spelling or the other.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, [names]), *missing])


def project_root() -> Path:
    """Return the project's folder: ONESTEP_ROOT, or else the working folder.

    A flow has no parameter for the folder, since the values of parameters come from requests to the Prefect server.
    """
    return Path(os.environ.get(ROOT) or Path.cwd()).resolve()


def prefect_database(root: Path) -> Path:
    """Return the database file of the local Prefect server, in the main worktree."""
    return main_worktree(root) / "runs" / "prefect" / "prefect.db"


def sqlite_url(file: Path) -> str:
    """Return the address by which a Prefect server opens a sqlite file."""
    return f"{SQLITE}{file}"


def temporary_database() -> Path | None:
    """Return the database file of a temporary Prefect server; None if it uses another kind of database."""
    url = os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL") or os.environ.get(DATABASE_URL, "")
    return Path(url.removeprefix(SQLITE)) if url.startswith(f"{SQLITE}/") else None


def child_environment() -> dict[str, str]:
    """Return the environment for a child process, in which `python` is this interpreter even without activation."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
