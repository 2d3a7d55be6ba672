"""The flow of a search: its trials as tasks, several at once, then the page."""

import time
from pathlib import Path
from typing import Annotated, Any

from optuna.study import Study
from optuna.trial import FrozenTrial
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from dmd.errors import UserError
from flows.ablation.flow import BUSY, INCOMPLETE, LOCK, is_informative
from flows.ablation.live import prepare
from flows.ablation.runs import drop_members, publish_comparison, publish_member
from flows.pipeline.run_names import name_ablation_run
from flows.runtime import guard
from flows.runtime.environment import project_root
from flows.runtime.file_lock import hold_lock
from flows.runtime.names import make_artifact_key
from flows.runtime.process import STOP, CommandStopped, join_on_exit
from flows.tuning import journal
from flows.tuning import study as trials
from flows.tuning.page import format_table, last_member, last_rung, list_trials, write_files
from flows.tuning.plan import Plan, load_plan
from flows.tuning.ready import check_ready
from flows.tuning.trial import run_trial

POLL = 0.5  # seconds between two looks at the running trials


@task(task_run_name="trial {number}", cache_policy=NO_CACHE, persist_result=False)
def run_one(study: Study, plan: Plan, number: int) -> State[Any]:
    """Run a trial and publish its MLflow run. A failure is returned, not raised, so that the other trials go on."""
    log = get_run_logger().info
    try:
        words = run_trial(study, plan, number, lambda line: log(line) if is_informative(line) else None)
    except (UserError, CommandStopped) as e:
        log(f"failed: {e}")
        return Failed(message=str(e), data=e)
    log(words)
    try:
        publish_trial(plan, trials.get_trial(study, number))
    except UserError as e:  # the experiment exists; the end of the search publishes it
        log(f"not in MLflow yet: {e}")
    return Completed(message=words)


def publish_trial(plan: Plan, trial: FrozenTrial) -> None:
    """Publish the MLflow run of the last rung of a trial, and delete those of the rungs before it."""
    publish_member(plan.root, plan.name, last_member(plan, trial))
    earlier = [plan.member(trial.number, trials.parameters(trial), rung) for rung in range(last_rung(trial))]
    drop_members(plan.root, plan.name, earlier)


def run_trials(study: Study, plan: Plan, at_once: int) -> dict[int, State[Any]]:
    """Continue the trials of a killed search, then begin new ones, `at_once` at the same time; return the final states.

    Until a trial has a score, only one runs, so that the others find the stages that they share in DVC's cache. An
    interrupt stops all of them; the same command continues the search.
    """
    STOP.clear()
    waiting = trials.list_unfinished(study)
    futures, done = dict[int, PrefectFuture[Any]](), set[int]()
    with ThreadPoolTaskRunner(max_workers=at_once) as runner, join_on_exit(futures.values()):
        while not STOP.is_set():
            active = len(futures) - len(done)  # `future.state` would ask the server for each, which may be away
            has_score = any(trial.intermediate_values for trial in study.get_trials(deepcopy=False))
            number = None
            if active < (at_once if has_score else 1):
                number = waiting.pop(0) if waiting else trials.propose(study, plan)
                if number is None and not active:
                    break
            if number is None:
                time.sleep(POLL)
                continue
            future = futures[number] = runner.submit(run_one, {"study": study, "plan": plan, "number": number})
            future.add_done_callback(lambda _future, ended=number: done.add(ended))
    return {number: future.state for number, future in futures.items()}


@task(task_run_name="page", cache_policy=NO_CACHE, persist_result=False)
def write_and_publish(study: Study, plan: Plan) -> State[Any]:
    """Write table, page and json, and publish them to MLflow and as artifacts of this task's run in Prefect."""
    files = write_files(study, plan)
    try:
        for trial in list_trials(study):
            if trial.intermediate_values:
                publish_trial(plan, trial)
        run = publish_comparison(plan.root, plan.name, plan.commit, files)
    except UserError as e:
        return Failed(message=f"publish: {e}", data=e)
    key = make_artifact_key("search", plan.name)
    create_markdown_artifact(format_table(study, plan), key=key, description=plan.search.description)
    page = next(file for file in files if file.suffix == ".html")
    create_link_artifact(page.as_uri(), link_text=page.name, key=make_artifact_key("search", plan.name, "page"))
    return Completed(name="Published", message=run)


@flow(name="search", flow_run_name=name_ablation_run, persist_result=False)
def search(file: Path, at_once: Annotated[int | None, Field(ge=1)] = None) -> State[Any]:
    """Search parameters by Optuna over experiments of the last commit, until the file's trials or hours are used up.

    Args:
        file: the search's file, such as experiments/searches/digits.yaml
        at_once: number of trials that run at the same time; by default the number in the file
    """
    guard.start()
    root = project_root()
    try:
        plan = load_plan(root, root / file)
        with hold_lock(root / LOCK, BUSY):
            check_ready(root, plan, at_once)
            prepare(root, plan.name, plan.commit, get_run_logger().info)
            if note := journal.repair(trials.find_journal(plan)):
                get_run_logger().info(note)
            study = trials.open_study(plan)
            states = run_trials(study, plan, at_once or plan.search.at_once)
            page = write_and_publish(study, plan, return_state=True)
    except UserError as e:
        return Failed(message=str(e), data=e)
    if not page.is_completed():
        return Failed(message=page.message)
    if failed := [f"trial {number}: {state.message}" for number, state in states.items() if state.is_failed()]:
        return Failed(name=INCOMPLETE, message="\n".join(failed))
    return Completed(message=f"{len(list_trials(study))} trials, MLflow run {page.message}")
