"""The tasks of the flow: a task for each DVC stage, then publish, show and register."""

import functools
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run, task_run
from prefect.states import Completed, Failed

from dmd.config import load_params
from dmd.errors import UserError
from flows.pipeline.artifacts import ProgressArtifact, create_result_artifacts
from flows.registry.tracking import Begun, end_partial, publish
from flows.registry.versions import CANDIDATE, describe, register
from flows.runtime.process import STOP, join_on_exit
from flows.workspace.graph import StageSpec
from flows.workspace.repro import StageError, reproduce

RETRY_DELAY = 5  # seconds

P = ParamSpec("P")
R = TypeVar("R")


def run_stages(specs: dict[str, StageSpec], root: Path, force: Sequence[str], live: Path | None = None) -> str:
    """Run each stage as soon as the stages it depends on are done; return the outcomes in one line.

    live: folder for the live logs of the stages.

    Raises UserError with one line for each stage that failed. An interrupt ends the running stages.
    """
    STOP.clear()
    futures: dict[str, PrefectFuture[Any]] = {}
    with join_on_exit(futures.values()):
        for name, spec in specs.items():
            upstream = [futures[dep] for dep in spec.deps]
            futures[name] = make_stage_task(spec).submit(  # type: ignore[call-overload]
                spec, root, name in force, live, wait_for=upstream
            )
    states = {name: future.state for name, future in futures.items()}
    if failed := [s for s in states.values() if s.is_failed() or s.is_crashed()]:
        raise UserError("\n".join(s.message or str(s.name) for s in failed))
    return ", ".join(f"{name} {state.name}" for name, state in states.items())


def _may_retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return not (isinstance(state.data, StageError) and state.data.explained)


@task(cache_policy=NO_CACHE, persist_result=False, retry_delay_seconds=RETRY_DELAY, retry_condition_fn=_may_retry)
def run_stage(spec: StageSpec, root: Path, force: bool = False, live: Path | None = None) -> State[Any]:
    """Run one stage; the name of the state is the outcome.

    A failure is returned and not raised, because Prefect logs a traceback for an exception.
    """
    log = ProgressArtifact(spec.name, get_run_logger().info)
    start = time.monotonic()
    try:
        outcome = reproduce(spec, root, log, force, live)
    except StageError as e:
        if not e.explained and task_run.run_count <= spec.retries:
            log(f"{e}; trying again in {RETRY_DELAY} s")
        return Failed(name="TimedOut" if e.timed_out else "Failed", message=str(e), data=e)
    seconds = time.monotonic() - start
    log(f"{outcome.lower()} in {seconds:.0f} s" if outcome == "Ran" else outcome.lower())
    return Completed(name=outcome, message=spec.desc or spec.name, data=outcome)


def make_stage_task(spec: StageSpec) -> Task[[StageSpec, Path, bool, Path | None], State[Any]]:
    """Return `run_stage` with the name of the stage and the settings of its `meta: {prefect: ...}` in dvc.yaml."""
    return run_stage.with_options(
        name=spec.name, task_run_name=spec.name, description=spec.desc, retries=spec.retries, tags=spec.tags
    )


def step(name: str, state_name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run a function as a task whose failure is one line: a failed state in Prefect and a UserError in the flow.

    name: name of the task
    state_name: name of the state of a completed task
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, tags=["mlflow"])
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
            try:
                value = function(*args, **kwargs)
            except UserError as e:
                return Failed(message=f"{name}: {e}", data=e)
            return Completed(name=state_name, message=str(value or name), data=value)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            state: State[Any] = run(*args, **kwargs, return_state=True)
            if not state.is_completed():
                raise UserError(state.message or f"{name}: {state.name}")
            return state.result()

        return call

    return decorate


@step("publish", "Published")
def publish_result(root: Path, experiment: str | None, begun: Begun | None) -> str:
    """Complete the run that has begun with the result, or publish it in a new one; return the id of the run."""
    run_id = publish(root, flow_run=str(flow_run.id), experiment=experiment, begun=begun)
    get_run_logger().info(f"MLflow run {run_id}")
    return run_id


def end_run(root: Path, begun: Begun | None, stages: Collection[str]) -> None:
    """End the run that has begun for some stages only. These need no server, so that MLflow is away is no failure."""
    try:
        run_id = end_partial(root, begun, stages)
    except UserError as e:
        get_run_logger().info(f"the MLflow run lacks the end of its curves: {e}")
        return
    if begun is not None:
        get_run_logger().info(f"MLflow run {run_id}" if run_id else "nothing was trained, so there is no MLflow run")


@step("show", "Shown")
def show_result(root: Path, run_id: str) -> None:
    """Show the table, the samples and the links in the Prefect UI."""
    create_result_artifacts(root, run_id)


@step("register", "Registered")
def register_result(root: Path, run_id: str) -> str:
    """Register the generator; return its name and version."""
    name, version = load_params(root / "params.yaml").register_.name, register(root, run_id)
    get_run_logger().info(f"{name} version {version} ({CANDIDATE}): {describe(root, version)}")
    return f"{name} version {version}"
