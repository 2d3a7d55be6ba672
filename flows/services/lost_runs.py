"""Automations of the Prefect server: a run whose process is gone is marked as crashed, and started again.

A killed process cannot say that it was killed. Where its runner lives on, the runner says so; where that is gone too,
nobody does, and the run's missing signs of life are what is left. Stages go on from their last checkpoint.
"""

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

TAG = "onestep"  # of our deployments: on a team's server there may be others
SILENCE = timedelta(seconds=120)  # four signs of life in a row, with the frequency that flows/__init__.py sets
ATTEMPTS = 3  # a run that is killed each time, such as one that needs more memory than there is, ends as crashed
MARK = "onestep: a run whose process is gone"
RESTART = "onestep: a run that was killed starts again"
NO_SIGN = "no sign of life"
KILLED = "Process exited with status code: -9"  # as Prefect's runner puts it


def create_automations() -> None:
    """Create what is not there yet; one that a user has changed or switched off stays as it is."""
    for automation in (_mark(), _restart()):
        try:
            Automation.read(name=automation.name)  # pyright: ignore[reportUnusedCoroutine] - none without an event loop
        except ValueError:
            automation.create()


def _mark() -> Automation:
    over = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=MARK,
        description="No sign of life for two minutes: the run's process and its runner are gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | over,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[_change(StateType.CRASHED, None, f"{NO_SIGN} for {SILENCE.seconds} s: its process is gone")],
    )


def _restart() -> Automation:
    """Bounded by Prefect's own count of a run's attempts; one that was killed before it began, at zero, is left alone.

    Only a kill counts: a run that crashed by itself would do so again, and `make down` ends runs with SIGTERM.
    """
    attempts = [str(n) for n in range(1, ATTEMPTS)]
    killed = {"prefect.state-message": [f"{NO_SIGN}*", f"{KILLED}*"], "prefect.run-count": attempts}
    return Automation(
        name=RESTART,
        description=f"The same run again, from its checkpoints; at most {ATTEMPTS} attempts.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"], **killed}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[_change(StateType.SCHEDULED, "AwaitingRetry", "its process was killed; it goes on")],
    )


def _change(state: StateType, name: str | None, message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(name=name, state=state, message=message, force=False)
