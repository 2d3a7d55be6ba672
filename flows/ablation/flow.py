"""The flow of an ablation: every member as a task, several at once, then the comparison."""

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
from evaluation.report.html import embed_png
from flows.ablation import experiment
from flows.ablation.comparison import FD_RATIO, format_table, load_measures, summarize, write_comparison
from flows.ablation.live import prepare, run_watched
from flows.ablation.page import load_samples, write_page
from flows.ablation.plan import Member, Plan, load_plan, split_waves
from flows.ablation.ready import check_ready
from flows.ablation.runs import publish_comparison, publish_member
from flows.pipeline.run_names import name_ablation_run
from flows.runtime import guard
from flows.runtime.environment import project_root
from flows.runtime.file_lock import hold_lock
from flows.runtime.names import make_artifact_key
from flows.runtime.process import STOP, CommandStopped, join_on_exit
from flows.workspace.repro import NOISE

# DVC prints these lines at the end of each experiment; they hold no information about the member.
ADVICE = ("Ran experiment(s)", "To apply the results", "\tdvc exp apply")
LOCK = Path("runs") / "ablate.lock"  # held by a flow that runs members of an ablation, or trials of a search
BUSY = "another ablation or search works in this folder; wait for it, or stop it"
INCOMPLETE = "Incomplete"  # state of a flow run whose page is written, and of whose members or trials some have failed


@task(task_run_name="{member.row} seed {member.seed}", cache_policy=NO_CACHE, persist_result=False)
def run_member(root: Path, name: str, member: Member) -> State[Any]:
    """Run the member's experiment if it does not exist, with its MLflow run from the start, and publish the result.

    A failure is returned, not raised, so that the other members go on.
    """
    log = get_run_logger().info
    existed = experiment.exists(root, member)
    try:
        if not existed:
            run_watched(root, name, member, lambda line: log(line) if is_informative(line) else None)
    except (UserError, CommandStopped) as e:
        log(f"failed: {e}")
        return Failed(message=str(e), data=e)
    try:
        publish_member(root, name, member)
    except UserError as e:  # the experiment exists; the comparison or the next run publishes it
        log(f"not in MLflow yet: {e}")
    measures = load_measures(root, member) or {}
    words = f"{member.experiment}: FD ratio {measures.get(FD_RATIO, float('nan')):.3f}"
    log(f"already there: {words}" if existed else words)
    return Completed(name="Already there" if existed else "Ran", message=words)


def is_informative(line: str) -> bool:
    """Whether a line of DVC says something about an experiment."""
    return bool(line.strip()) and not line.startswith((*NOISE, *ADVICE))


def run_members(root: Path, plan: Plan, at_once: int) -> dict[Member, State[Any]]:
    """Run all members, `at_once` at the same time; return their final states. An interrupt stops all of them."""
    STOP.clear()
    missing = [m for m in plan.members if not experiment.exists(root, m)]
    leaders, followers = split_waves(missing)
    futures: dict[Member, PrefectFuture[Any]] = {}
    with ThreadPoolTaskRunner(max_workers=at_once) as runner, join_on_exit(futures.values()):
        for wave in ([m for m in plan.members if m not in missing] + leaders, followers):
            for member in wave:
                values = {"root": root, "name": plan.name, "member": member}
                futures[member] = runner.submit(run_member, values)
            for future in futures.values():
                future.wait()
    return {member: future.state for member, future in futures.items()}


@task(task_run_name="comparison", cache_policy=NO_CACHE, persist_result=False)
def write_and_publish(root: Path, plan: Plan, reasons: dict[Member, str]) -> State[Any]:
    """Write table, pictures and plots, and publish them to MLflow and as artifacts of this task's run in Prefect."""
    results = {m: load_measures(root, m) for m in plan.members}
    finished = [m for m, values in results.items() if values]
    rows = summarize(plan.ablation, results)
    files = write_comparison(root, plan, rows)
    samples = load_samples(root, finished)
    page = write_page(root, plan, rows, samples, {m: reasons.get(m, "") for m in results if m not in finished})
    try:
        for member in finished:
            publish_member(root, plan.name, member)
        run = publish_comparison(root, plan.name, plan.commit, [*files, page])
    except UserError as e:
        return Failed(message=f"publish: {e}", data=e)
    key = make_artifact_key("ablation", plan.name)
    create_markdown_artifact(format_table(rows), key=key, description=plan.ablation.description)
    page_key = make_artifact_key("ablation", plan.name, "page")
    create_link_artifact(page.as_uri(), link_text=page.name, key=page_key, description="table, pictures, plots")
    for member, picture in samples.items():
        words = f"{member.row}, seed {member.seed}"
        create_image_artifact(str(embed_png(picture)), make_artifact_key("ablation", plan.name, member.row), words)
    return Completed(name="Published", message=run)


@flow(name="ablate", flow_run_name=name_ablation_run, persist_result=False)
def ablate(file: Path, at_once: Annotated[int | None, Field(ge=1)] = None) -> State[Any]:
    """Run every member of an ablation file as an experiment of the last commit, and compare them.

    A member that has an experiment already is not run again.

    Args:
        file: the ablation's file, such as experiments/ablations/dmd2_paper.yaml
        at_once: number of members that run at the same time; by default the number in the file
    """
    guard.start()
    root = project_root()
    try:
        plan = load_plan(root, root / file)
        with hold_lock(root / LOCK, BUSY):
            check_ready(root, plan, at_once)
            prepare(root, plan.name, plan.commit, get_run_logger().info)
            states = run_members(root, plan, at_once or plan.ablation.at_once)
            reasons = {m: state.message or state.name or "failed" for m, state in states.items() if state.is_failed()}
            comparison = write_and_publish(root, plan, reasons, return_state=True)
    except UserError as e:
        return Failed(message=str(e), data=e)
    if not comparison.is_completed():
        return Failed(message=comparison.message)
    if reasons:
        return Failed(name=INCOMPLETE, message="\n".join(f"{m.row} seed {m.seed}: {why}" for m, why in reasons.items()))
    return Completed(message=f"{len(states)} members, MLflow run {comparison.message}")
