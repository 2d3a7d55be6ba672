"""The flow: every stage of DVC's graph as a task, then MLflow. With changes of its own it works in a git worktree."""

from dataclasses import dataclass
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
from dmd.config_paths import load_run_params
from dmd.errors import UserError
from flows.pipeline.artifacts import show_result
from flows.pipeline.changes import Change, change_file
from flows.pipeline.graph import StageSpec, read_graph, select_stages
from flows.pipeline.presets import Variant, check_complete, make_variants
from flows.pipeline.stage import stage_task
from flows.pipeline.worktrees import check_committed, save_experiment, temporary_worktree
from flows.registry.gate import check_gate
from flows.registry.tracking import publish
from flows.registry.versions import CANDIDATE, describe, register
from flows.runtime import guard
from flows.runtime.file_lock import hold_lock
from flows.runtime.process import STOP, all_ended


@task(name="publish", task_run_name="publish", cache_policy=NO_CACHE, persist_result=False, tags=["mlflow"])
def publish_task(root: Path, experiment: str | None) -> State[Any]:
    """The result's run in MLflow; its id is the state's data."""
    try:
        run_id = publish(root, flow_run=str(flow_run.id), experiment=experiment)
    except UserError as e:
        return Failed(message=f"publish: {e}", data=e)
    get_run_logger().info(f"MLflow run {run_id}")
    show_result(root, run_id)
    return Completed(name="Published", message=run_id, data=run_id)


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False, tags=["mlflow"])
def register_task(root: Path, run_id: str) -> State[Any]:
    """The result's version in the registry; its number is the state's data."""
    try:
        name, version = load_params(root / "params.yaml").register_.name, register(root, run_id)
        verdict = describe(root, version)
    except UserError as e:
        return Failed(message=f"register: {e}", data=e)
    get_run_logger().info(f"{name} version {version} ({CANDIDATE}): {verdict}")
    return Completed(name="Registered", message=f"{name} version {version}", data=version)


STAGES_AT_ONCE = 2  # teacher beside evaluator, baseline beside train: each stage uses runtime.threads of its own

RUNNER: Any = ThreadPoolTaskRunner(max_workers=STAGES_AT_ONCE)


def run_stages(specs: dict[str, StageSpec], root: Path, force: list[str]) -> dict[str, State[Any]]:
    """Each stage as soon as those it stands on are done; returns the final states. An interrupt ends what runs."""
    STOP.clear()
    futures: dict[str, PrefectFuture[Any]] = {}
    with all_ended(futures.values()):
        for name, spec in specs.items():
            upstream = [futures[dep] for dep in spec.deps]
            futures[name] = stage_task(spec).submit(  # type: ignore[call-overload]
                spec, root, name in force, wait_for=upstream
            )
    return {name: future.state for name, future in futures.items()}


@flow(name="distill", persist_result=False, task_runner=RUNNER)
def distill(
    root: Path | None = None,
    preset: str | None = None,
    overrides: dict[str, Change | list[int]] | None = None,
    seeds: list[int] | None = None,
    force: list[str] | None = None,
    register_model: bool = True,
    target: str | None = None,
) -> State[Any]:
    """Bring a project up to date, publish its result to MLflow and register the generator.

    With a preset, overrides or seeds nothing of the project's folder is touched: the run works in a git worktree of
    the last commit and becomes a DVC experiment, one for each seed. A stage that fails does not end one beside it.

    Args:
        root: the project's folder; empty for the one the flow is served from
        preset: a file of experiments/presets/ without its ending, such as quick
        overrides: keys of params.yaml with other values, such as {"method.critic_turns": 10}
        seeds: values of train.seed; an experiment for each
        force: stages to run even if nothing has changed for them, such as ["evaluate"]
        register_model: whether the result becomes a version in the model registry, where the gate judges it
        target: only this stage and those it stands on; publishes nothing, saves no experiment
    """
    guard.start()
    root = (root or Path.cwd()).resolve()
    try:
        check_gate(load_run_params(root / "params.yaml", root).register_.gate)
        graph = read_graph(root)
        names = select_stages(graph, target) if target else list(graph)
        for stage in force or []:
            select_stages(graph, stage)  # names one that isn't there
        todo = make_variants(root, preset or None, overrides or {}, seeds or [])
        check_complete(todo)
        commit = check_committed(root) if todo else ""
    except UserError as e:
        return Failed(message=str(e), data=e)
    run = Run([graph[name] for name in names], force or [], register_model, partial=target is not None)
    states = [_experiment(run, root, commit, variant) for variant in todo] if todo else [_workspace(run, root)]
    if failed := [s for s in states if not s.is_completed()]:
        return Failed(message="\n".join(s.message or str(s.name) for s in failed))
    return Completed(message="\n".join(str(s.message) for s in states), data=states[-1].data)


@dataclass(frozen=True)
class Run:
    """What is done in one folder."""

    specs: list[StageSpec]
    force: list[str]
    register: bool
    partial: bool  # up to a target: nothing to publish


def _workspace(run: Run, root: Path) -> State[Any]:
    try:
        with hold_lock(root / "runs" / "flow.lock", "another run works in this folder; wait for it, or stop it"):
            return _in(run, root, None)
    except UserError as e:
        return Failed(message=str(e), data=e)


def _experiment(run: Run, root: Path, commit: str, variant: Variant) -> State[Any]:
    """The run in a worktree of the last commit, saved as an experiment before it is published."""
    try:
        with temporary_worktree(root, commit) as place:
            change_file(variant.changes, place / "params.yaml")
            get_run_logger().info(f"{variant.experiment}: {dict(variant.changes)}")
            state = _in(run, place, variant.experiment)
    except UserError as e:
        return Failed(message=f"{variant.experiment}: {e}", data=e)
    return state.model_copy(update={"message": f"{variant.experiment}: {state.message}"})


def _in(run: Run, root: Path, experiment: str | None) -> State[Any]:
    """Stages, then experiment, MLflow run and version, as far as they are asked for."""
    states = run_stages({spec.name: spec for spec in run.specs}, root, run.force)
    if failed := [s for s in states.values() if s.is_failed() or s.is_crashed()]:
        return Failed(message="\n".join(s.message or str(s.name) for s in failed))
    outcomes = ", ".join(f"{name} {state.name}" for name, state in states.items())
    if run.partial:  # DVC saves no experiment that lacks outputs; its cache has what was made
        return Completed(message=outcomes)
    if experiment:
        save_experiment(root, experiment)
    published = publish_task(root, experiment, return_state=True)
    if not published.is_completed():
        return Failed(message=published.message)
    if not run.register:
        return Completed(message=f"MLflow run {published.message}; {outcomes}")
    registered = register_task(root, str(published.message), return_state=True, wait_for=[published])
    if not registered.is_completed():
        return Failed(message=registered.message)
    return Completed(message=f"{registered.message}; {outcomes}", data=registered.message)
