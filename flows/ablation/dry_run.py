"""The text of `flows.ablate --dry-run`: the members, and stages, memory and time of one member of each row."""

from pathlib import Path

from flows.ablation import experiment
from flows.ablation.plan import Plan
from flows.pipeline.dry_run import plan as plan_run
from flows.pipeline.presets import Variant


def describe(root: Path, plan: Plan) -> str:
    """Return the text. Stages that members share, and that no cache holds yet, are counted for each row."""
    done = [member for member in plan.members if experiment.exists(root, member)]
    head = f"{len(plan.members)} members, {plan.ablation.at_once} at once; {len(done)} have a result already"
    first = {member.row: member for member in reversed(plan.members)}
    variants = [Variant(member.experiment, member.changes) for member in reversed(first.values())]
    return f"{head}\n\n{plan_run(root, variants, [], None, plan.ablation.preset)}"
