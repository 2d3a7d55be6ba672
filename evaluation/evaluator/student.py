"""The student's measures beside those of its teacher."""

from statistics import fmean

from evaluation.metrics.schema import Baseline, GeneratorMeasures, Metrics, Ratio, Scores
from evaluation.statistics.intervals import ratio_interval


def add_student(
    baseline: Baseline, student: GeneratorMeasures, scores: list[Scores], seen: dict[str, str] | None = None
) -> Metrics:
    """Metrics of a run: the baseline, the student, and the student's FD over the best teacher's.

    seen: reasons by the name of each extractor that training has seen, which are left out of the mean `unseen`. The
    interval of a ratio comes from the FD of each replicate of the student and of the teacher.
    """
    fd, intervals = {}, {}
    for k, best in baseline.best_teacher.items():
        fd[k] = student.values("fd")[k] / baseline.teachers[best].values("fd")[k]
        intervals[k] = ratio_interval([s.values("fd")[k] for s in scores], baseline.fd_replicates[best][k])
    marks = seen or {}
    unseen = [value for k, value in fd.items() if k not in marks]
    ratio = Ratio(fd=fd, interval=intervals, seen=marks, unseen=fmean(unseen) if unseen else None)
    return Metrics(**dict(baseline), student=student, ratio=ratio)
