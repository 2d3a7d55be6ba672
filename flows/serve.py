"""`python -m flows.serve`: the deployments on one machine. Runs start from the Prefect UI, or on a schedule."""

import sys
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from dmd.errors import UserError
from flows import server
from flows.pipeline import distill

NIGHTLY = "0 3 * * *"


def deployments() -> list[Any]:
    """What is served. The schedule is there but off: a user switches it on in the UI."""
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron=NIGHTLY), active=False)
    return [
        distill.to_deployment(
            name="workspace",
            description="Bring this folder up to date, publish and register the result.",
            schedules=[schedule],
            parameters={"root": str(Path.cwd())},
            concurrency_limit=1,  # two runs would work in one folder
            tags=["onestep"],
        )
    ]


def main() -> int:
    try:
        server.connect()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    serve(*deployments(), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
