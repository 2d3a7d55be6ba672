"""The text of `flows.search --dry-run`: the searched parameters, the trials of each rung, and the cost of one trial."""

from flows.pipeline.dry_run import plan as plan_run
from flows.pipeline.presets import Variant
from flows.pipeline.ranges import Range, edges
from flows.tuning.plan import Plan


def describe(plan: Plan) -> str:
    """Return the text. The cost is that of a trial with the first value of each parameter, at the last rung."""
    search = plan.search
    lines = [f"{search.trials} trials, {search.at_once} at once, proposed by TPE with seed {search.seed}:"]
    for key, values in search.space.items():
        low, high = values.bounds if isinstance(values, Range) else (None, None)
        scale = "log" if isinstance(values, Range) and values.log else "linear"
        text = f"{low:g} to {high:g}, {scale}" if isinstance(values, Range) else ", ".join(map(str, values))
        lines.append(f"  {key}: {text}")
    count = search.trials
    for rung, turns in enumerate(search.turns):
        stages = "the whole pipeline" if rung == len(search.turns) - 1 else "up to stage train"
        lines.append(f"  at least {count} train for {turns} generator turns, {stages}")
        count = max(1, count // search.keep)
    first = {key: edges(values)[0] for key, values in search.space.items()}
    member = plan.member(0, first, len(search.turns) - 1)
    cost = plan_run(plan.root, [Variant(member.experiment, member.changes)], [], None, search.preset)
    return "\n".join([*lines, "", "a trial to its end:", cost])
