"""The flow: every stage of DVC's graph as a task, then MLflow."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from dmd.config import ConfigError, load_params
from flows.errors import UserError
from flows.graph import ancestors, stage_graph
from flows.register import ALIAS, register
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
    get_run_logger().info(f"{name} version {version} ({ALIAS})")
    return Completed(name="Registered", message=f"{name} version {version}", data=version)


@flow(name="distill", persist_result=False)
def distill(root: Path | None = None, target: str | None = None) -> State[Any]:
    """Bring the workspace at `root` up to date and publish its result; with `target`, only what that stage needs.

    Stages run one after the other in the main thread, where a cancel reaches them at once.
    """
    root = (root or Path.cwd()).resolve()
    try:
        load_params(root / "params.yaml")
        graph = stage_graph(root)
        names = ancestors(graph, target) if target else list(graph)
    except (ConfigError, UserError) as e:
        return Failed(message=str(e), data=e)
    states: dict[str, State[Any]] = {}
    for name in names:
        upstream = [states[dep] for dep in graph[name].deps]
        states[name] = stage_task(graph[name])(graph[name], root, wait_for=upstream, return_state=True)
        if not states[name].is_completed():
            return Failed(message=states[name].message)
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
