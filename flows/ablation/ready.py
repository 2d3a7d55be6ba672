"""Check what an ablation needs, before its first member runs."""

from pathlib import Path

from dmd.config import validate
from flows.ablation.plan import Plan
from flows.pipeline.changes import change_params
from flows.pipeline.worktrees import check_same_commit
from flows.preflight.checks import check_before
from flows.preflight.inputs import check_inputs
from flows.preflight.run import Run
from flows.workspace.graph import read_graph


def check_ready(root: Path, plan: Plan, at_once: int | None = None) -> None:
    """Raise UserError with one line for each thing that a member would fail for later.

    at_once: number of members that run at the same time; by default that of the file
    """
    params = [change_params(plan.params, m.changes, m.experiment, root) for m in plan.members]
    check_inputs(params, root, in_place=False)
    check_same_commit(root, plan.commit, plan.params)
    check_before(
        Run(
            root=root,
            params=[validate(p, plan.name) for p in params],
            stages=frozenset(read_graph(root)),
            in_place=False,
            registers=False,
            at_once=at_once or plan.ablation.at_once,
            preset=plan.ablation.preset,
        )
    )
