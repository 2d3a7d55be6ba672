"""A real run with passwords in its addresses and tokens in its environment stores and prints none of them."""

import json
from pathlib import Path

import pytest

from tests.helpers.projects import copy_of_the_project, run, versions
from tests.helpers.servers import call, free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]

SECRETS = {
    name: f"secret-of-{name.lower().replace('_', '-')}-8d1f"
    for name in ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY")
}


def test_an_address_with_a_password_works_and_the_password_is_stored_nowhere(tmp_path: Path) -> None:
    """The servers of `make up` take their token as a password; no file but that of the token holds it."""
    project = copy_of_the_project(tmp_path / "project")
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    try:
        up = call(project, "up", **ports)
        assert up.returncode == 0, up.stdout + up.stderr
        token = (project / "runs/services/token").read_text().strip()
        user = f"http://onestep:{token}@127.0.0.1"
        addresses = {
            "MLFLOW_TRACKING_URI": f"{user}:{ports['MLFLOW_PORT']}",
            "PREFECT_API_URL": f"{user}:{ports['PREFECT_PORT']}/api",
        }
        done = run(project, "-m", "flows.distill", **addresses, **SECRETS)
        assert "version 1" in done.stdout
    finally:
        call(project, "down", **ports)
    hidden = {**SECRETS, "token": token}
    shown = {name for name, value in hidden.items() if value in done.stdout + done.stderr}
    for file in project.rglob("*"):
        if file.is_file() and not file.is_symlink() and file != project / "runs/services/token":
            content = file.read_bytes()
            shown |= {f"{name} in {file}" for name, value in hidden.items() if value.encode() in content}
    assert shown == set()
    assert json.loads((project / "reports/metrics.json").read_text())["student"]["nfe"] == 1
    assert versions(project) == [1, 1, 0]
