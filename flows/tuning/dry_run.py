"""The text of `flows.search --dry-run`: the searched parameters, the trials of each rung, and the cost of one trial."""

from flows.pipeline.dry_run import plan as plan_run
from flows.pipeline.presets import Variant
from flows.pipeline.ranges import Dimension, Range, edges
from flows.tuning.plan import Plan


def describe(plan: Plan) -> str:
    """Return the text. The cost is that of a trial with the first value of each parameter, at the last rung."""
    search = plan.search
    lines = [f"{search.trials} trials, {search.at_once} at once, proposed by TPE with seed {search.seed}:"]
    for key, values in search.space.items():
        lines.append(f"  {key}: {_describe_values(values)}")
    count = search.trials
    for rung, turns in enumerate(search.turns):
        stages = "the whole pipeline" if rung == len(search.turns) - 1 else "up to stage train"
        # Below the first rung the number depends on the order of the scores (`flows.tuning.study.goes_on`).
        lines.append(f"  {'about ' if rung else ''}{count} train for {turns} generator turns, {stages}")
        count = max(1, count // search.keep)
    first = {key: edges(values)[0] for key, values in search.space.items()}
    member = plan.member(0, first, len(search.turns) - 1)
    cost = plan_run(plan.root, [Variant(member.experiment, member.changes)], [], None, search.preset)
    return "\n".join([*lines, "", "a trial to its end:", cost])


def _describe_values(values: Dimension) -> str:
    """Return the bounds and the scale of a range, or the values of a list."""
    if not isinstance(values, Range):
        return ", ".join(map(str, values))
    low, high = values.bounds
    return f"{low:g} to {high:g}, {'log' if values.log else 'linear'}"
