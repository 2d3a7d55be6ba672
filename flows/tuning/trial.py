"""Runs one trial of a search: an experiment for each rung, until it is pruned or has run the whole pipeline."""

import io
import time
from collections.abc import Callable

import pandas as pd
from optuna.study import Study

from dmd.errors import UserError
from flows.ablation import experiment
from flows.ablation.live import run_watched
from flows.ablation.plan import Member
from flows.registry.result import LOSSES, METRICS
from flows.runtime.process import ENDING, STOP, CommandStopped
from flows.tuning import study as trials
from flows.tuning.plan import Plan

SCORE = "validation_score"  # column of losses.csv
PREPARATION = "warm_start"  # the phase whose generators are not candidates (`Phase.is_preparation`)
TRAIN = "train"  # stage up to which all rungs but the last run

Log = Callable[[str], None]


def run_trial(study: Study, plan: Plan, number: int, log: Log) -> str:
    """Run a trial from its first rung without a score to its end; return a line with its score.

    A trial of a killed search continues, and experiments that exist are not run again. If an experiment fails, the
    trial ends as failed, and UserError is raised. Raises CommandStopped if the flow ends: the trial then goes on later.
    """
    trial, last = trials.get_trial(study, number), len(plan.search.turns) - 1
    score = float("nan")
    for rung, turns in enumerate(plan.search.turns):
        member = plan.member(number, trials.parameters(trial), rung)
        if rung not in trial.intermediate_values:
            start = time.monotonic()
            try:
                _run(plan, member, log, is_last=rung == last)
                score = read_score(plan, member)
            except UserError as e:
                if STOP.is_set():  # the same signal or Ctrl-C has ended a process of the trial
                    raise CommandStopped(ENDING) from e
                trials.fail(study, number, str(e), time.monotonic() - start)
                raise
            trials.report(study, number, rung, score, time.monotonic() - start)
        else:
            score = trial.intermediate_values[rung]
        if rung < last and not trials.goes_on(study, number, rung, plan.search.keep):
            trials.prune(study, number)
            return f"trial {number}: score {score:.4g} after {turns} turns, ended"
    trials.finish(study, number, score)
    return f"trial {number}: score {score:.4g} after {plan.search.turns[-1]} turns"


def _run(plan: Plan, member: Member, log: Log, is_last: bool) -> None:
    file = METRICS if is_last else LOSSES
    if not experiment.exists(plan.root, member, file):
        run_watched(plan.root, plan.name, member, log, target=None if is_last else TRAIN)


def read_score(plan: Plan, member: Member) -> float:
    """Return the lowest validation score of an experiment's candidates. Raises UserError if there is none."""
    content = experiment.read(plan.root, member, LOSSES)
    rows = pd.read_csv(io.BytesIO(content)) if content else pd.DataFrame()
    if SCORE in rows:
        scores = rows.loc[rows["phase"] != PREPARATION, SCORE].dropna()
        if len(scores):
            return float(scores.min())
    raise UserError(f"{member.experiment}: {LOSSES} has no {SCORE} in a phase other than {PREPARATION}")
