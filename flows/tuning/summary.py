"""The text that a search prints at its end: the trials, the best one, the page and the next commands."""

import json
import textwrap
from dataclasses import replace

from flows.pipeline.summary import WIDTH, list_next_steps
from flows.registry.store import shown_uri
from flows.tuning.page import describe, find_best, format_table, last_member, results_path
from flows.tuning.plan import Plan
from flows.tuning.study import open_study


def summarize(plan: Plan) -> str:
    """Return the text for a search whose results are written."""
    results = json.loads(results_path(plan.root, plan.name).read_text())
    plan = replace(plan, commit=results["commit"] or "")  # that of the flow
    study, uri = open_study(plan), shown_uri(plan.root)
    best = find_best(study)
    name = last_member(plan, best).experiment if best else "NAME"
    lines = [format_table(study, plan), "", *textwrap.wrap(describe(plan), WIDTH), ""]
    if best:
        lines.append(f"best:       trial {best.number}, score {best.value:.4g}, experiment {name}")
    lines.append(f"report:     {results_path(plan.root, plan.name).with_suffix('.html')}")
    lines.append(f"MLflow:     {uri}, run {plan.name}")
    return "\n".join([*lines, "", "next:", *(f"  {step}" for step in list_next_steps(name, uri))])
