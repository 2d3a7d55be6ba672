"""Tables of a comparison: the measures of each generator, and its differences from the first one."""

import pandas as pd

from evaluation.comparing.candidates import Candidate
from evaluation.metrics.measures import Direction, Measure, list_compared
from evaluation.report.table import NFE
from evaluation.statistics.intervals import Interval, mean_interval

NO_DIFFERENCE = "no significant difference"


def tabulate(candidates: list[Candidate]) -> pd.DataFrame:
    """A row per generator with its measures, means over replicates."""
    rows = {}
    for candidate in candidates:
        row: dict[str, float] = {NFE: candidate.measures.nfe}
        for measure in list_compared():
            row |= {f"{measure.name} {k}".strip(): v for k, v in candidate.measures.values(measure.name).items()}
        rows[candidate.name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def find_differences(candidates: list[Candidate]) -> pd.DataFrame:
    """Difference of each generator from the first, by measure and extractor, with its 95 % interval and verdict."""
    first, rows = candidates[0], []
    for other in candidates[1:]:
        for measure in list_compared():
            for extractor in other.measures.values(measure.name):
                differences = _pair_replicates(first, other, measure.name, extractor)
                if not differences:
                    continue
                interval = mean_interval(differences)
                worse = other if (interval.low > 0) == (measure.direction == "lower") else first
                is_noise = _reaches_floor(worse, measure, extractor)
                rows.append(
                    {
                        "generator": other.name,
                        "measure": f"{measure.name} {extractor}".strip(),
                        "difference": sum(differences) / len(differences),
                        "low": interval.low,
                        "high": interval.high,
                        "verdict": NO_DIFFERENCE if is_noise else give_verdict(interval, measure.direction),
                    }
                )
    return pd.DataFrame(rows)


def describe_marks(candidates: list[Candidate]) -> str:
    """A line with the judges of measures that name none, and the marks of the judges of each generator."""
    others = [m for m in list_compared() if m.judge not in ("", m.name)]
    shown = [m for m in others if any(c.measures.values(m.name) for c in candidates)]
    judges = f"Computed by: {', '.join(f'{m.name} {m.judge}' for m in shown)}. " if shown else ""
    marks = "; ".join(f"{c.name}: {c.marks or 'none'}" for c in candidates)
    return f"{judges}Marked judges: {marks}."


def _pair_replicates(first: Candidate, other: Candidate, measure: str, extractor: str) -> list[float]:
    """Differences of the two generators' values in each replicate; empty if one of them has no values."""
    sides = [[s.values(measure) for s in candidate.scores] for candidate in (first, other)]
    if any(extractor not in values for side in sides for values in side):
        return []
    return [b[extractor] - a[extractor] for a, b in zip(*sides, strict=True)]


def _reaches_floor(worse: Candidate, measure: Measure, extractor: str) -> bool:
    """Whether the worse generator is as good as a generator can be, by its interval: then none is better."""
    if measure.floor is None:
        return False
    return worse.measures.interval.values(measure.name)[extractor].low <= measure.floor


def give_verdict(interval: Interval, direction: Direction) -> str:
    """Verdict on a generator, from the interval of its difference from the first generator."""
    if interval.low <= 0 <= interval.high:
        return NO_DIFFERENCE
    return "better" if (interval.high < 0) == (direction == "lower") else "worse"
