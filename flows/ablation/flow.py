"""The flow: every member of an ablation as a task, so many at once, then the comparison."""

import re
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from dmd.errors import UserError
from evaluation.report.page import png_source
from flows.ablation import experiment
from flows.ablation.comparison import compare, measured, table, write_comparison
from flows.ablation.page import first_pictures, render
from flows.ablation.plan import Member, Plan, load_plan, waves
from flows.ablation.runs import publish_comparison, publish_member
from flows.pipeline import lock
from flows.pipeline.stage import NOISE
from flows.pipeline.worktrees import check_committed
from flows.runtime import guard
from flows.runtime.process import STOP, Stopped, all_ended
from flows.runtime.roots import only_one

ADVICE = ("Ran experiment(s)", "To apply the results", "\tdvc exp apply")  # DVC's, at the end of each member
INCOMPLETE = "Incomplete"  # the state of a flow whose comparison is there, with seeds missing


@task(task_run_name="{member.row} seed {member.seed}", cache_policy=NO_CACHE, persist_result=False)
def run_member(root: Path, name: str, member: Member) -> State[Any]:
    """The experiment, and at once its run in MLflow. A failure is returned: it concerns this member alone."""
    log = get_run_logger().info
    there = experiment.is_there(root, member)
    try:
        if not there:
            experiment.run(root, member, lambda line: log(line) if _matters(line) else None)
    except (experiment.MemberError, Stopped) as e:
        log(f"failed: {e}")
        return Failed(message=str(e), data=e)
    try:
        publish_member(root, name, member)
    except UserError as e:  # the experiment is kept, and published with the comparison or by the next run
        log(f"not in MLflow yet: {e}")
    numbers = measured(root, member) or {}
    words = f"{member.experiment}: FD ratio {numbers.get('fd_ratio', float('nan')):.3f}"
    log(f"already there: {words}" if there else words)
    return Completed(name="Already there" if there else "Ran", message=words)


def _matters(line: str) -> bool:
    return bool(line.strip()) and not line.startswith((*NOISE, *ADVICE))


def run_members(root: Path, plan: Plan, at_once: int) -> dict[Member, State[Any]]:
    """The final state of each member. An interrupt ends what runs, and begins nothing more."""
    STOP.clear()
    missing = [m for m in plan.members if not experiment.is_there(root, m)]
    leaders, followers = waves(missing)
    futures: dict[Member, PrefectFuture[Any]] = {}
    with ThreadPoolTaskRunner(max_workers=at_once) as runner, all_ended(futures.values()):
        for wave in ([m for m in plan.members if m not in missing] + leaders, followers):
            for member in wave:
                values = {"root": root, "name": plan.name, "member": member}
                futures[member] = runner.submit(run_member, values)
            for future in futures.values():
                future.wait()
    return {member: future.state for member, future in futures.items()}


@task(task_run_name="comparison", cache_policy=NO_CACHE, persist_result=False)
def write_and_publish(root: Path, plan: Plan, reasons: dict[Member, str]) -> State[Any]:
    """Table, pictures and plots, on disk, in MLflow and beside this task's run in Prefect."""
    results = {m: measured(root, m) for m in plan.members}
    rows = compare(plan.ablation, results)
    files = write_comparison(root, plan.name, plan.ablation, rows)
    pictures = first_pictures(root, [m for m, found in results.items() if found])
    page = render(root, plan, rows, pictures, {m: reasons.get(m, "") for m, found in results.items() if not found})
    try:
        for member in (m for m, found in results.items() if found):
            publish_member(root, plan.name, member)
        run = publish_comparison(root, plan.name, [*files, page])
    except UserError as e:
        return Failed(message=f"publish: {e}", data=e)
    key = re.sub(r"[^a-z0-9]+", "-", f"ablation-{plan.name}".lower())
    create_markdown_artifact(table(rows), key=key, description=plan.ablation.description)
    create_link_artifact(page.as_uri(), link_text=page.name, key=f"{key}-page", description="table, pictures, plots")
    for member, picture in pictures.items():
        words = f"{member.row}, seed {member.seed}"
        create_image_artifact(str(png_source(picture)), f"{key}-{member.row.replace('_', '-')}", words)
    return Completed(name="Published", message=run)


@flow(name="ablate", persist_result=False)
def ablate(file: Path, root: Path | None = None, at_once: Annotated[int | None, Field(ge=1)] = None) -> State[Any]:
    """Bring every member of an ablation file to an experiment of the last commit, and compare them.

    What is there already is not run again.

    Args:
        file: the ablation's file, such as experiments/ablations/dmd2_paper.yaml
        root: the project's folder; empty for the one the flow is served from
        at_once: members at the same time, instead of the file's own number
    """
    guard.watch()
    root = (root or Path.cwd()).resolve()
    try:
        plan = load_plan(root, root / file)
        with only_one(root / lock.BUSY, "another ablation works in this folder; wait for it, or stop it"):
            check_committed(root)
            experiment.clear_stale(root)
            with lock.of_what_is_here(root) as missing:
                if missing:
                    get_run_logger().info(f"not in DVC's cache here, so computed once for all: {', '.join(missing)}")
                states = run_members(root, plan, at_once or plan.ablation.at_once)
            reasons = {m: state.message or state.name or "failed" for m, state in states.items() if state.is_failed()}
            published = write_and_publish(root, plan, reasons, return_state=True)
    except UserError as e:
        return Failed(message=str(e), data=e)
    if not published.is_completed():
        return Failed(message=published.message)
    if reasons:
        return Failed(name=INCOMPLETE, message="\n".join(f"{m.row} seed {m.seed}: {why}" for m, why in reasons.items()))
    return Completed(message=f"{len(states)} members, MLflow run {published.message}")
