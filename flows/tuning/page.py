"""The results of a search: the page reports/searches/NAME.html, a Markdown table and a json file beside it."""

import json
from pathlib import Path

from markupsafe import Markup
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dmd.storage.files import write_text
from evaluation.report.charts import history_chart, shares_chart
from evaluation.report.html import Card, render_template
from flows.ablation.plan import Member
from flows.runtime.git import git
from flows.tuning import study as trials
from flows.tuning.plan import Plan

OUTCOMES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "ended early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "not finished",
}


def list_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials by their number."""
    return study.get_trials(deepcopy=False)


def last_rung(trial: FrozenTrial) -> int:
    """Return the last rung at which a trial has a score; 0 if it has none."""
    return max(trial.intermediate_values, default=0)


def last_member(plan: Plan, trial: FrozenTrial) -> Member:
    """Return the experiment of the last rung at which a trial has a score."""
    return plan.member(trial.number, trials.parameters(trial), last_rung(trial))


def find_best(study: Study) -> FrozenTrial | None:
    """Return the finished trial with the lowest score; None if there is none."""
    finished = [trial for trial in list_trials(study) if trial.state == TrialState.COMPLETE]
    return min(finished, key=lambda trial: trial.value or 0.0, default=None)


def results_path(root: Path, name: str) -> Path:
    """Return reports/searches/NAME.json; the table and the page lie beside it with the endings .md and .html."""
    return root / "reports" / "searches" / f"{name}.json"


def write_files(study: Study, plan: Plan) -> list[Path]:
    """Write the json, the table and the page; return their paths. Two equal searches write equal files."""
    path = results_path(plan.root, plan.name)
    rows = [
        {
            "trial": trial.number,
            "outcome": OUTCOMES[trial.state],
            "values": dict(trial.params),
            "scores": {str(plan.search.turns[rung]): score for rung, score in trial.intermediate_values.items()},
            "experiment": last_member(plan, trial).experiment,
            **({"reason": reason} if (reason := trial.user_attrs.get(trials.REASON)) else {}),
        }
        for trial in list_trials(study)
    ]
    content = {
        "name": plan.name,
        "description": plan.search.description,
        "commit": plan.commit or None,
        "importance": dict(trials.compute_importances(study)),
        "trials": rows,
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
    write_text(path.with_suffix(".md"), f"{describe(plan)}\n\n{format_table(study, plan)}\n")
    write_text(path.with_suffix(".html"), render_page(study, plan))
    return [path, path.with_suffix(".md"), path.with_suffix(".html")]


def describe(plan: Plan) -> str:
    """Return sentences that say what a table of the trials shows: score, turns, commit and seed."""
    search, commit = plan.search, git(plan.root, "log", "-1", "--format=%h of %cs", plan.commit) or "unknown"
    turns, about = " or ".join(map(str, search.turns)), search.description.removesuffix(".")
    return (
        f"{about}. Score: the lowest validation score of a trial's generators after {turns} generator turns; lower is "
        f"better, and scores after different numbers of turns do not compare. "
        f"Commit {commit}, train.seed {search.train_seed}."
    )


def table(study: Study, plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of the trials: those that reached the last rung first, then by score."""
    keys = list(plan.search.space)
    head = ["trial", "outcome", "turns", "score", *keys]

    def rank(trial: FrozenTrial) -> tuple[int, float]:
        scores = trial.intermediate_values
        return -len(scores), scores.get(last_rung(trial), float("inf"))

    rows = []
    for trial in sorted(list_trials(study), key=rank):
        rung, scores = last_rung(trial), trial.intermediate_values
        turns, score = (str(plan.search.turns[rung]), f"{scores[rung]:.4g}") if scores else ("", "")
        values = [_format(trial.params.get(key)) for key in keys]
        rows.append([str(trial.number), OUTCOMES[trial.state], turns, score, *values])
    return head, rows


def format_table(study: Study, plan: Plan) -> str:
    """Return the trials as a Markdown table."""
    head, rows = table(study, plan)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def render_page(study: Study, plan: Plan) -> str:
    """Return the page as HTML."""
    head, rows = table(study, plan)
    best = find_best(study)
    return render_template(
        "search.html.j2",
        name=plan.name,
        description=plan.search.description,
        subject=describe(plan),
        cards=_cards(study, plan, best),
        head=head,
        rows=rows,
        charts=[Markup(chart) for chart in draw_history(study, plan)],
        importance=Markup(draw_importance(study)),
        failed=[(t.number, t.user_attrs.get(trials.REASON, "")) for t in list_trials(study) if _failed(t)],
        base=[(key, _format(value)) for key, value in plan.search.base.items()],
    )


def draw_history(study: Study, plan: Plan) -> list[str]:
    """Return a plot for each rung: the scores in the order of the trials, and the lowest so far."""
    charts = []
    for rung, turns in enumerate(plan.search.turns):
        scores = {t.number: t.intermediate_values[rung] for t in list_trials(study) if rung in t.intermediate_values}
        if scores:
            figures = "; ".join(f"trial {number} {score:.4g}" for number, score in scores.items())
            alt = f"score after {turns} turns: {figures}. Lower is better."
            axis = f"score after {turns} turns\n(FD / variance, lower is better)"
            charts.append(history_chart(scores, "trial (number)", axis, alt))
    return charts


def draw_importance(study: Study) -> str:
    """Return a plot of the importance of each parameter; "" with too few finished trials."""
    shares = trials.compute_importances(study)
    alt = "; ".join(f"{key} {share:.0%}" for key, share in shares.items())
    return shares_chart(shares, "importance (share of all parameters)", f"Importance: {alt}.") if shares else ""


def _cards(study: Study, plan: Plan, best: FrozenTrial | None) -> list[Card]:
    all_trials = list_trials(study)
    failed, early = (sum(t.state == state for t in all_trials) for state in (TrialState.FAIL, TrialState.PRUNED))
    words = f"{early} ended early, {failed} failed. Each trial is a DVC experiment and an MLflow run."
    count = Card(f"{len(all_trials)} of {plan.search.trials}", "trials", words, "bad" if failed else "good")
    if best is None:
        return [count]
    values = ", ".join(f"{key}: {_format(value)}" for key, value in best.params.items())
    return [Card(f"{best.value:.4g}", f"lowest score, trial {best.number}", f"{values}.", "good"), count]


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
