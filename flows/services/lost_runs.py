"""Automations of the Prefect server for runs whose process is gone: mark them as crashed, and start them again.

If a runner or worker is gone together with its process, Prefect leaves the run in the state Running
(https://github.com/PrefectHQ/prefect/issues/16746). The remedy is the one that Prefect documents: an automation that
reacts to missing heartbeats (https://docs.prefect.io/v3/advanced/detect-zombie-flows). A heartbeat can arrive after
the end of a run (https://github.com/PrefectHQ/prefect/issues/18653), so the states are proposed and not forced: the
server keeps a final state. A run that starts again continues from the last checkpoint of its stages.
"""

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.runtime.environment import TAG

SILENCE = timedelta(seconds=120)  # four heartbeats, with the frequency that flows/runtime/environment.py sets
ATTEMPTS = 3  # after this number a run that is killed each time, such as for lack of memory, stays crashed
MARK = "onestep: a run whose process is gone"
RESTART = "onestep: a run that was killed starts again"
NO_HEARTBEAT = "no heartbeat"
_OF_THIS_PROJECT = ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]})
KILLED = "Process exited with status code: -9"  # the message of Prefect's runner


def create_automations() -> None:
    """Create the automations that do not exist yet. Existing ones stay unchanged: a user may have edited them."""
    for automation in (_mark(), _restart()):
        try:
            Automation.read(name=automation.name)  # pyright: ignore[reportUnusedCoroutine] - none without an event loop
        except ValueError:
            automation.create()


def _mark() -> Automation:
    """Mark a run as crashed after SILENCE without a heartbeat."""
    final = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=MARK,
        description="No heartbeat for two minutes: the run's process and its runner are gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | final,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_OF_THIS_PROJECT,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[_propose(StateType.CRASHED, None, f"{NO_HEARTBEAT} for {SILENCE.seconds} s: its process is gone")],
    )


def _restart() -> Automation:
    """Schedule a killed run again, as long as Prefect's own count of its attempts is below ATTEMPTS.

    A run that was killed before it began has a count of zero and is not started again. Nor is a run that crashed by
    itself, which would crash again, or a run that `make down` has ended with SIGTERM.
    """
    attempts = [str(n) for n in range(1, ATTEMPTS)]
    killed = {"prefect.state-message": [f"{NO_HEARTBEAT}*", f"{KILLED}*"], "prefect.run-count": attempts}
    return Automation(
        name=RESTART,
        description=f"The same run again, from its checkpoints; at most {ATTEMPTS} attempts.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"], **killed}),
            match_related=_OF_THIS_PROJECT,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[_propose(StateType.SCHEDULED, "AwaitingRetry", "its process was killed; it starts again")],
    )


def _propose(state: StateType, name: str | None, message: str) -> ChangeFlowRunState:
    """Return the action that proposes a state; the server refuses it if the run has ended."""
    return ChangeFlowRunState(name=name, state=state, message=message, force=False)
