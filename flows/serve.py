"""`python -m flows.serve`: the deployments on one machine. Runs start from the Prefect UI, or on a schedule."""

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
from flows.services import prefect_server as server
from flows.services.lost_runs import TAG, create_automations

NIGHTLY, WEEKLY = "0 3 * * *", "0 6 * * 1"


def deployments() -> list[Any]:
    """What is served. Schedules are there but off: a user switches them on in the UI."""
    here = {"root": str(Path.cwd())}
    return [
        distill.to_deployment(
            name="workspace",
            description="Bring this folder up to date, publish and register the result.",
            schedules=[_off(NIGHTLY)],
            parameters=here,
            concurrency_limit=1,  # two runs would work in one folder
            tags=[TAG],
        ),
        distill.to_deployment(
            name="experiment",
            description="A preset, overrides or seeds: in a worktree, as DVC experiments; several at once.",
            parameters={**here, "preset": "quick"},
            tags=[TAG],
        ),
        ablate.to_deployment(
            name="ablation",
            description="Members of an ablation file as experiments, compared.",
            parameters={**here, "file": "experiments/ablations/dmd2_paper.yaml"},
            concurrency_limit=1,
            tags=[TAG],
        ),
        watch.to_deployment(
            name="champion",
            description="Judge the champion again: has the environment drifted?",
            schedules=[_off(WEEKLY)],
            parameters=here,
            concurrency_limit=1,
            tags=[TAG],
        ),
    ]


def _off(cron: str) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(schedule=CronSchedule(cron=cron), active=False)


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__).parse_args(argv)
    prefect_database(Path.cwd()).parent.mkdir(parents=True, exist_ok=True)  # for a temporary server
    try:
        server.check_server()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    create_automations()
    serve(*deployments(), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
