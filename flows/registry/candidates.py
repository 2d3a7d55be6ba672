"""The generators that validation selected while a run trained, as logged models of its MLflow run with their figures.

MLflow gets no weights of them: a training keeps those of its last selected generator alone, and exports them. They are
in DVC's cache, and MLflow has them once, in the registered version.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pandas as pd

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MOST = 10  # logged models of a run; of more, the last ones stay
KEPT = "validation_kept"  # column of losses.csv: 1 for a generator that validation selected
SCORE = "validation_score"
FIGURES = "validation_"  # start of the names of a candidate's figures
HALF_LIFE = "ema_half_life"
TURN = "turn"  # parameter of a logged model
KIND = "candidate"  # type of the logged models


class Candidate(NamedTuple):
    """A generator that validation selected; a later one may have taken its place."""

    turn: int
    time: int  # milliseconds since 1970, that of the run's points of this turn
    numbers: Mapping[str, float]  # the row of its turn

    def figures(self) -> dict[str, float]:
        """The figures of validation."""
        return {key: value for key, value in self.numbers.items() if key.startswith(FIGURES) and key != KEPT}


def log_candidates(
    client: "MlflowClient", run_id: str, group: str, candidates: Sequence[Candidate], are_all: bool = False
) -> None:
    """Log candidates as models of a run, and delete all but the last MOST.

    A model with the same figures stays as it is. group: start of the names of the run's curves. are_all: whether these
    are all candidates of the run; models of other turns are then deleted, which a training that went back has left.
    """
    if not candidates and not are_all:
        return
    experiment = client.get_run(run_id).info.experiment_id
    known, new = find_candidates(client, experiment, run_id), {c.turn: c for c in candidates}
    old = {turn for turn, model in known.items() if _is_outdated(model, new.get(turn), group, are_all)}
    last = sorted((known.keys() - old) | new.keys())[-MOST:]
    for turn, model in known.items():
        if turn in old or turn not in last:
            client.delete_logged_model(model.model_id)
    for turn in (turn for turn in last if turn in new):
        has_model = turn in known and turn not in old
        model = known[turn] if has_model else _create(client, experiment, run_id, new[turn])
        _log_figures(client, run_id, model.model_id, group, new[turn])


def log_recorded(client: "MlflowClient", run_id: str, group: str, losses: Path, weights: Mapping[str, str]) -> None:
    """Bring the logged models of a run in line with the record of its training, and tag the one that was exported.

    losses: losses.csv, which has no candidates if an earlier version wrote it. weights: tags that say where the
    exported weights are.
    """
    table = pd.read_csv(losses).set_index(TURN).select_dtypes("number")
    if KEPT not in table:
        return
    # A turn that was trained twice has two points; the score tells which one belongs to this candidate.
    points = client.get_metric_history(run_id, f"{group}{SCORE}")
    times, now = {(point.step, point.value): point.timestamp for point in points}, int(1000 * time.time())
    candidates = list[Candidate]()
    for key, values in table[table[KEPT] == 1].iterrows():
        turn, row = int(str(key)), cast(dict[str, float], values.to_dict())
        numbers = {key: value for key, value in row.items() if not pd.isna(value)}
        candidates.append(Candidate(turn, times.get((turn, row[SCORE]), now), numbers))
    log_candidates(client, run_id, group, candidates, are_all=True)
    if candidates:
        models = _list_outputs(client, run_id)
        client.set_logged_model_tags(models[candidates[-1].turn].model_id, {"exported": "true", **weights})


def find_candidates(client: "MlflowClient", experiment: str, run_id: str) -> "dict[int, LoggedModel]":
    """The logged models of a run's candidates, by their turn."""
    query = f"source_run_id = '{run_id}' AND model_type = '{KIND}'"
    return {int(model.params[TURN]): model for model in client.search_logged_models([experiment], query)}


def _list_outputs(client: "MlflowClient", run_id: str) -> "dict[int, LoggedModel]":
    """List the logged models on the page of a run whose training has ended; return them by turn."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    models = find_candidates(client, run.info.experiment_id, run_id)
    listed = {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}
    missing = [LoggedModelOutput(m.model_id, turn) for turn, m in models.items() if m.model_id not in listed]
    if missing:
        client.log_outputs(run_id, missing)
    return models


def _is_outdated(model: "LoggedModel", candidate: Candidate | None, group: str, are_all: bool) -> bool:
    """Whether a training that went back to a checkpoint has repeated or left out the turn of a model."""
    if candidate is None:
        return are_all
    figures = {f"{group}{key}": value for key, value in candidate.figures().items()}
    return any(metric.value != figures.get(metric.key) for metric in model.metrics or ())


def _create(client: "MlflowClient", experiment: str, run_id: str, candidate: Candidate) -> "LoggedModel":
    """Create a model without files, as `mlflow.create_external_model` does.

    That function takes its address from the process, where only the main thread may set it.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    params = {TURN: str(candidate.turn)}
    if HALF_LIFE in candidate.numbers:
        params[HALF_LIFE] = f"{candidate.numbers[HALF_LIFE]:g}"
    model = client.create_logged_model(
        experiment, f"turn-{candidate.turn:06d}", run_id, {MLFLOW_MODEL_IS_EXTERNAL: "true"}, params, KIND
    )
    return client.finalize_logged_model(model.model_id, "READY")


def _log_figures(client: "MlflowClient", run_id: str, model_id: str, group: str, candidate: Candidate) -> None:
    """Log the figures of a model. The run has the same points, of the same time, which it stores once."""
    from mlflow.entities import Metric

    points = [
        Metric(f"{group}{key}", float(value), candidate.time, candidate.turn, model_id=model_id, run_id=run_id)
        for key, value in candidate.figures().items()
    ]
    client.log_batch(run_id, metrics=points)
