"""`python -m flows.serve`: serve the deployments on one machine, for runs from the Prefect UI or by a schedule."""

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from dmd.errors import UserError
from flows.ablation.flow import ablate
from flows.pipeline.flow import distill
from flows.registry.watch import watch
from flows.runtime.environment import prefect_database
from flows.services import prefect_server
from flows.services.lost_runs import TAG, create_automations

NIGHTLY, WEEKLY = "0 3 * * *", "0 6 * * 1"


def list_deployments() -> list[Any]:
    """Return the deployments of the working folder. Their schedules are off until a user switches them on in the UI."""
    return [
        distill.to_deployment(
            name="workspace",
            description="Bring this folder up to date, publish and register the result.",
            schedules=[_inactive(NIGHTLY)],
            concurrency_limit=1,  # two runs would work in one folder
            tags=[TAG],
        ),
        distill.to_deployment(
            name="experiment",
            description="Run a preset, overrides or seeds in a worktree, as DVC experiments; several at once.",
            parameters={"preset": "quick"},
            tags=[TAG],
        ),
        ablate.to_deployment(
            name="ablation",
            description="Run the members of an ablation file as experiments, and compare them.",
            parameters={"file": "experiments/ablations/dmd2_paper.yaml"},
            concurrency_limit=1,
            tags=[TAG],
        ),
        watch.to_deployment(
            name="champion",
            description="Evaluate the champion again: has the environment drifted?",
            schedules=[_inactive(WEEKLY)],
            concurrency_limit=1,
            tags=[TAG],
        ),
    ]


def _inactive(cron: str) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(schedule=CronSchedule(cron=cron), active=False)


def main(argv: list[str] | None = None) -> int:
    """Serve until the process is ended; return 1 if no Prefect server answers."""
    argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__).parse_args(argv)
    prefect_database(Path.cwd()).parent.mkdir(parents=True, exist_ok=True)  # for a temporary server
    try:
        prefect_server.check_server()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    create_automations()
    serve(*list_deployments(), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
