"""The flow `distill`: the stages of dvc.yaml, then MLflow."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from dmd.errors import UserError
from flows.live.reporter import Job, follow
from flows.pipeline.changes import Value
from flows.pipeline.experiments import drop_result, keep_result
from flows.pipeline.live_artifacts import LiveArtifacts
from flows.pipeline.presets import Variant
from flows.pipeline.request import Request, read_request
from flows.pipeline.run_names import name_distill_run
from flows.pipeline.tasks import end_run, publish_result, register_result, run_stages, show_result
from flows.pipeline.worktrees import open_folder, save_experiment
from flows.runtime import guard
from flows.runtime.environment import project_root

STAGES_AT_ONCE = 2  # teacher and evaluator, then baseline and train; each uses runtime.threads threads

RUNNER: Any = ThreadPoolTaskRunner(max_workers=STAGES_AT_ONCE)


@flow(name="distill", flow_run_name=name_distill_run, persist_result=False, task_runner=RUNNER)
def distill(
    preset: str | None = None,
    overrides: dict[str, Value] | None = None,
    seeds: list[int] | None = None,
    force: list[str] | None = None,
    register_model: bool = True,
    from_commit: bool = False,
    target: str | None = None,
) -> State[Any]:
    """Bring a project up to date, publish its result to MLflow and register the generator.

    With a preset, overrides or seeds the project's folder is not changed: the run works in a git worktree of the last
    commit and becomes a DVC experiment, one for each seed. A failed stage does not stop a stage that runs beside it.

    Args:
        preset: a file of experiments/presets/ without its ending, such as quick
        overrides: keys of params.yaml with other values, such as {"method.critic_turns": 10}
        seeds: values of train.seed; an experiment for each
        force: stages to run even if nothing has changed for them, such as ["evaluate"]
        register_model: whether to register the generator as a version, which the gate may then make champion
        from_commit: with a preset, overrides or seeds: leave out what has changed in the folder since the last commit
        target: run only this stage and the stages it depends on; publish no result, save no experiment
    """
    guard.start()
    root = project_root()
    try:
        changes = preset or None, overrides or {}, seeds or []
        request = read_request(root, *changes, force or [], target or None, from_commit)
        commit = request.check_ready(register_model)
    except UserError as e:
        return Failed(message=str(e), data=e)
    states = [_distill_once(request, commit, variant, register_model) for variant in request.variants or [None]]
    if failed := [s for s in states if not s.is_completed()]:
        return Failed(message="\n".join(str(s.message) for s in failed))
    return Completed(message="\n".join(str(s.message) for s in states), data=states[-1].data)


def _distill_once(request: Request, commit: str, variant: Variant | None, register_model: bool) -> State[Any]:
    """Run the steps in one folder. An error becomes a failed state with its message, so the next variant still runs."""
    name = variant.experiment if variant else None
    prefix = f"{name}: " if name else ""
    if name and not request.target:
        drop_result(request.root, name)
    try:
        with open_folder(request.root, commit, variant) as folder:
            job = Job(folder, str(flow_run.id), name, request.target)
            with follow(job, LiveArtifacts(folder), get_run_logger().info) as reporter:
                outcomes = run_stages(request.stages, folder, request.force, reporter.folder)
                if request.target:  # DVC saves no experiment that lacks outputs; its cache keeps those of the stages
                    end_run(folder, reporter.finish(), request.stages)
                    return Completed(message=f"{prefix}{outcomes}")
                if name:
                    save_experiment(folder, name)
                run_id = publish_result(folder, name, reporter.finish())
            if name:
                keep_result(folder, name)
            show_result(folder, run_id)
            version = register_result(folder, run_id) if register_model else None
    except UserError as e:
        return Failed(message=f"{prefix}{e}", data=e)
    return Completed(message=f"{prefix}{version or f'MLflow run {run_id}'}; {outcomes}", data=version)
