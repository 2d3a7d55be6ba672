"""`python -m flows.serve`: the deployments on one machine. Runs start from the Prefect UI, or on a schedule."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.automations import Automation
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from dmd.errors import UserError
from flows import server
from flows.ablation_flow import ablate
from flows.pipeline import distill
from flows.watch import watch

NIGHTLY, WEEKLY = "0 3 * * *", "0 6 * * 1"
SILENCE = timedelta(seconds=120)  # of a run whose process sends a sign of life every thirty seconds
RUNS = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
LOST, AGAIN = "onestep: a run whose process is gone", "onestep: a crashed run starts again"


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
            tags=["onestep"],
        ),
        distill.to_deployment(
            name="experiment",
            description="A preset, overrides or seeds: in a worktree, as DVC experiments; several at once.",
            parameters={**here, "preset": "quick"},
            tags=["onestep"],
        ),
        ablate.to_deployment(
            name="ablation",
            description="Members of an ablation file as experiments, compared.",
            parameters={**here, "file": "ablations/dmd2_paper.yaml"},
            concurrency_limit=1,
            tags=["onestep"],
        ),
        watch.to_deployment(
            name="champion",
            description="Judge the champion again: has the environment drifted?",
            schedules=[_off(WEEKLY)],
            parameters=here,
            concurrency_limit=1,
            tags=["onestep"],
        ),
    ]


def _off(cron: str) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(schedule=CronSchedule(cron=cron), active=False)


def look_after_runs() -> None:
    """Automations: a silent run is marked as crashed; a crashed one is started again, where it left off.

    They are made once; what a user changes in them stays.
    """
    for made in (_mark_lost(), _start_again()):
        try:
            Automation.read(name=made.name)  # pyright: ignore[reportUnusedCoroutine] - none where no event loop runs
        except ValueError:  # there is none yet
            made.create()


def _mark_lost() -> Automation:
    over = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=LOST,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | over,
            match=RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[  # type: ignore[arg-type]
            ChangeFlowRunState(name=None, state=StateType.CRASHED, message="no sign of life", force=False)
        ],
    )


def _start_again() -> Automation:
    """Runs of deployments alone: nobody would start another's. The flow itself counts its starts."""
    return Automation(
        name=AGAIN,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=RUNS,
            match_related=ResourceSpecification(
                {"prefect.resource.id": ["prefect.deployment.*"], "prefect.resource.role": ["deployment"]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[  # type: ignore[arg-type]
            ChangeFlowRunState(name="AwaitingRetry", state=StateType.SCHEDULED, message="goes on", force=True)
        ],
    )


def main() -> int:
    try:
        server.connect()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    look_after_runs()
    serve(*deployments(), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
