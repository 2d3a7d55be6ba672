"""The flow: every stage of DVC's graph as a task, then MLflow."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from dmd.config import load_params
from dmd.errors import UserError
from flows.graph import StageSpec, ancestors, stage_graph
from flows.process import STOP
from flows.register import ALIAS, register, verdict_of
from flows.stage import stage_task
from flows.tracking import publish


@task(name="publish", task_run_name="publish", cache_policy=NO_CACHE, persist_result=False, tags=["mlflow"])
def publish_task(root: Path) -> State[Any]:
    """The result's run in MLflow; its id is the state's data."""
    try:
        run_id = publish(root, flow_run=str(flow_run.id))
    except UserError as e:
        return Failed(message=f"publish: {e}", data=e)
    get_run_logger().info(f"MLflow run {run_id}")
    return Completed(name="Published", message=run_id, data=run_id)


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False, tags=["mlflow"])
def register_task(root: Path, run_id: str) -> State[Any]:
    """The result's version in the registry; its number is the state's data."""
    try:
        name, version = load_params(root / "params.yaml").register_.name, register(root, run_id)
    except UserError as e:
        return Failed(message=f"register: {e}", data=e)
    get_run_logger().info(f"{name} version {version} ({ALIAS}): {verdict_of(root, version)}")
    return Completed(name="Registered", message=f"{name} version {version}", data=version)


STAGES_AT_ONCE = 2  # teacher beside evaluator, baseline beside train: each stage uses runtime.threads of its own

RUNNER: Any = ThreadPoolTaskRunner(max_workers=STAGES_AT_ONCE)


def run_stages(specs: dict[str, StageSpec], root: Path) -> dict[str, State[Any]]:
    """Each stage as soon as those it stands on are done; returns the final states. An interrupt ends what runs."""
    STOP.clear()
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for name, spec in specs.items():
            upstream = [futures[dep] for dep in spec.deps]
            futures[name] = stage_task(spec).submit(spec, root, wait_for=upstream)  # type: ignore[call-overload]
        for future in futures.values():
            future.wait()
    except BaseException:
        STOP.set()
        for future in futures.values():
            future.wait()
        raise
    return {name: future.state for name, future in futures.items()}


@flow(name="distill", persist_result=False, task_runner=RUNNER)
def distill(root: Path | None = None, target: str | None = None) -> State[Any]:
    """Bring the workspace at `root` up to date and publish its result; with `target`, only what that stage needs.

    A stage that fails does not end one that runs beside it: its result is kept.
    """
    root = (root or Path.cwd()).resolve()
    try:
        load_params(root / "params.yaml")
        graph = stage_graph(root)
        names = ancestors(graph, target) if target else list(graph)
    except UserError as e:
        return Failed(message=str(e), data=e)
    states = run_stages({name: graph[name] for name in names}, root)
    if failed := [s for s in states.values() if s.is_failed() or s.is_crashed()]:
        return Failed(message="\n".join(s.message or str(s.name) for s in failed))
    outcomes = ", ".join(f"{name} {state.name}" for name, state in states.items())
    if target:
        return Completed(message=outcomes)
    published = publish_task(root, wait_for=list(states.values()), return_state=True)
    if not published.is_completed():
        return Failed(message=published.message)
    registered = register_task(root, str(published.message), return_state=True, wait_for=[published])
    if not registered.is_completed():
        return Failed(message=registered.message)
    return Completed(message=f"{registered.message}; {outcomes}", data=registered.message)
