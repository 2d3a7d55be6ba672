"""The student's measures beside those of its teacher."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from dmd.generator.cost import read_cost
from evaluation.features.seen import find_seen
from evaluation.metrics.schema import Baseline, GeneratorMeasures, Metrics, Ratio, Scores, TrainingCost
from evaluation.models.names import list_selecting
from evaluation.statistics.intervals import ratio_interval


def name_source(facts: Mapping[str, str], precision: str) -> str:
    """Return the identity of a generator in the store: the hash of its folder, and the type of its weights."""
    sha256 = facts["generator sha256"]
    return sha256 if precision == "fp32" else f"{sha256} {precision}"


def add_student(
    baseline: Baseline,
    student: GeneratorMeasures,
    scores: list[Scores],
    training: Path,
    evaluator: Path,
    has_classes: bool,
) -> Metrics:
    """Metrics of a run: the baseline, the student, the student's FD over the best teacher's, and the training's cost.

    training: the folder with the records of stage `train`; evaluator: the folder of stage `evaluator`. has_classes: of
    the data; a student without conditions, or with few images of a class, has no measures of classes. The interval of a
    ratio comes from the FD of each replicate of the student and of the teacher.
    """
    fd, intervals = {}, {}
    for k, best in baseline.best_teacher.items():
        fd[k] = student.values("fd")[k] / baseline.teachers[best].values("fd")[k]
        intervals[k] = ratio_interval([s.values("fd")[k] for s in scores], baseline.fd_replicates[best][k])
    seen = find_seen(training, baseline, evaluator)
    selects = [k for k in list_selecting(has_classes) if k in fd]
    unmarked = [value for k, value in fd.items() if k not in (*seen, *selects)]
    mean = fmean(unmarked) if unmarked else None
    ratio = Ratio(fd=fd, interval=intervals, seen=seen, selects=selects, unseen=mean)
    cost = read_cost(training)
    training_cost = TrainingCost.model_validate(cost) if cost else None
    return Metrics(**dict(baseline), student=student, ratio=ratio, training=training_cost)
