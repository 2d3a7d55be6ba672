"""The trials of a search in Optuna's storage: their proposed values, scores and outcomes.

The storage is a journal, to which each step adds a line, so that a killed search continues where it was. The values of
a trial depend only on the seed, on its number and on the trials before it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from flows.pipeline.ranges import Dimension, Range
from flows.tuning.plan import Parameters, Plan

FOLDER = Path("runs") / "searches"
SECONDS, REASON = "seconds", "reason"  # attributes of a trial
# The first trials have random values: a quarter of all trials, but at least FEWEST_RANDOM and at most MOST_RANDOM.
FEWEST_RANDOM = 4
MOST_RANDOM = 10  # Optuna's own default
FEWEST_IMPORTANCE = 4  # finished trials that an importance needs


def find_journal(plan: Plan) -> Path:
    """Return the file of the trials of a search, which may not exist yet."""
    return plan.root / FOLDER / f"{plan.name}.journal"


def open_study(plan: Plan) -> Study:
    """Open the trials of this search at its commit."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = find_journal(plan)
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    name = f"{plan.name} {plan.digest} at {plan.commit[:12] or 'none'}"
    return optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)


def list_unfinished(study: Study) -> list[int]:
    """Return the numbers of the trials that a killed search has begun and not ended."""
    return [trial.number for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]


def propose(study: Study, plan: Plan) -> int | None:
    """Begin a trial with values that TPE proposes; return its number. None if the trials or the hours are used up."""
    done, search = study.get_trials(deepcopy=False), plan.search
    spent = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in done)
    if len(done) >= search.trials or (search.hours is not None and spent > 3600 * search.hours):
        return None
    space = {key: new_distribution(values) for key, values in search.space.items()}
    # The values are proposed in a copy and then added in one step, so that a kill leaves no trial without values.
    random = min(MOST_RANDOM, max(FEWEST_RANDOM, search.trials // 4))
    seed = (search.seed * 1_000_003 + len(done)) % 2**32
    copy = optuna.create_study(direction="minimize", sampler=TPESampler(n_startup_trials=random, seed=seed))
    copy.add_trials(done)
    values = copy.ask(space).params
    study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=space))
    return len(done)


def new_distribution(values: Dimension) -> BaseDistribution:
    """Return Optuna's distribution over the values of a list or a range."""
    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    low, high = values.bounds
    is_log = values.log is not None
    if values.is_whole:
        return IntDistribution(int(low), int(high), log=is_log)
    return FloatDistribution(float(low), float(high), log=is_log)


def get_trial(study: Study, number: int) -> FrozenTrial:
    """Return a trial by its number."""
    return study.get_trials(deepcopy=False)[number]


def report(study: Study, number: int, rung: int, score: float, seconds: float) -> None:
    """Store the score of a trial at a rung, and the seconds that it took."""
    _add_seconds(study, number, seconds)
    _live(study, number).report(score, rung)


def goes_on(study: Study, number: int, rung: int, keep: int) -> bool:
    """Whether a trial goes on to the next rung: its score is in the best 1 / keep of those at this rung so far.

    This is the asynchronous successive halving of Li et al. 2020 ("A System for Massively Parallel Hyperparameter
    Tuning"). No trial waits for others, so the first trial of a rung always goes on.
    """
    scores = {t.number: t.intermediate_values[rung] for t in study.get_trials() if rung in t.intermediate_values}
    return is_promoted(scores[number], list(scores.values()), keep)


def is_promoted(score: float, all_scores: Sequence[float], keep: int) -> bool:
    """Whether fewer than max(1, N // keep) of the N scores are lower than this one."""
    return sum(other < score for other in all_scores) < max(1, len(all_scores) // keep)


def finish(study: Study, number: int, score: float) -> None:
    """End a trial that has run to its last rung."""
    study.tell(number, score)


def prune(study: Study, number: int) -> None:
    """End a trial that does not go on."""
    study.tell(number, state=TrialState.PRUNED)


def fail(study: Study, number: int, reason: str, seconds: float) -> None:
    """End a trial whose experiment has failed after some seconds, which count as those of a finished one."""
    _add_seconds(study, number, seconds)
    _live(study, number).set_user_attr(REASON, reason)
    study.tell(number, state=TrialState.FAIL)


def compute_importances(study: Study) -> Mapping[str, float]:
    """Return the importance of each parameter by PED-ANOVA, as shares; empty with too few finished trials."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(finished) < FEWEST_IMPORTANCE:
        return {}
    with suppress(ValueError, RuntimeError):  # Optuna raises these if all scores or all values are equal
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {}


def parameters(trial: FrozenTrial) -> Parameters:
    """Return the proposed values of a trial by key."""
    return dict(trial.params)


def _add_seconds(study: Study, number: int, seconds: float) -> None:
    before = get_trial(study, number).user_attrs.get(SECONDS, 0.0)
    _live(study, number).set_user_attr(SECONDS, before + seconds)


def _live(study: Study, number: int) -> Trial:
    """Return the trial as the class of Optuna that takes reports and attributes."""
    study.sampler = optuna.samplers.RandomSampler(seed=0)  # no value is proposed here; the default, TPE, would compute
    return Trial(study, get_trial(study, number)._trial_id)
