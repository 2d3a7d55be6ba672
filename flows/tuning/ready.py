"""Checks what a search needs, before its first trial runs."""

from pathlib import Path

from dmd.config import validate
from flows.pipeline.ranges import edges
from flows.pipeline.worktrees import check_same_commit
from flows.preflight.checks import check_before
from flows.preflight.inputs import check_inputs
from flows.preflight.run import Run
from flows.tuning.plan import Plan
from flows.workspace.graph import read_graph


def check_ready(root: Path, plan: Plan, at_once: int | None = None) -> None:
    """Raise UserError with one line for each thing that a trial would fail for later.

    at_once: number of trials that run at the same time; by default that of the file
    """
    first = {key: edges(values)[0] for key, values in plan.search.space.items()}
    params = plan.check_values(first, f"search {plan.name}")
    check_inputs([params], root, in_place=False)
    check_same_commit(root, plan.commit, plan.params)
    check_before(
        Run(
            root=root,
            params=[validate(params, plan.name)],
            stages=frozenset(read_graph(root)),
            in_place=False,
            registers=False,
            at_once=at_once or plan.search.at_once,
            preset=plan.search.preset,
        )
    )
