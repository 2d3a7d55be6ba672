"""The deployments of a working folder: what the Prefect UI can start or schedule."""

from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from flows.ablation.flow import ablate
from flows.pipeline.flow import distill
from flows.registry.watch import watch
from flows.runtime.environment import TAG
from flows.tuning.flow import search

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
        search.to_deployment(
            name="search",
            description="Search parameters by Optuna; each trial is an experiment.",
            parameters={"file": "experiments/searches/digits.yaml"},
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
