"""The rule that chooses the champion: a pure function of recorded figures that ignores the order of the versions.

A version that misses an absolute limit is refused. Among the others, version A *beats* version B if A is better in a
gated measure by more than the noise of both, and worse in no measure. The champion is the unbeaten version with the
lowest ratio of its Fréchet distance to its teacher's, the geometric mean over extractors; if versions beat each other
in a circle, so that none is unbeaten, it is the version with the lowest ratio. Between versions that are equal within
the noise the choice is arbitrary, but it does not depend on the order of registration.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dmd.config import GateConfig
from dmd.errors import ConfigError
from evaluation.metrics.measures import MEASURES, list_compared
from evaluation.metrics.schema import Metrics


@dataclass(frozen=True)
class Figures:
    """Figures of a result that the gate compares. A key is a measure and an extractor, such as `fd classifier`."""

    measures: dict[str, tuple[float, float]]  # value, and half the width of its 95 % interval
    ratios: dict[str, float]  # FD and recall over those of the teacher's best sampler
    protocol: str  # sha256 of extractors and reference; figures of different protocols cannot be compared
    marks: dict[str, str] = field(default_factory=dict)  # of extractors that training has seen, or that select

    def to_json(self) -> str:
        """Text of the tag that holds the figures of a version."""
        fields = {"measures": self.measures, "ratios": self.ratios, "judges": self.protocol, "marks": self.marks}
        return json.dumps(fields, sort_keys=True)

    def marked(self, key: str) -> str:
        """The key of a measure with the mark of its extractor, or of the judge that computes it."""
        measure, _, extractor = key.partition(" ")
        return key + self.marks.get(extractor or MEASURES[measure].judge, "")

    @classmethod
    def from_json(cls, text: str) -> "Figures":
        """Inverse of `to_json`."""
        fields = json.loads(text)
        return cls(fields["measures"], fields["ratios"], fields["judges"], fields.get("marks", {}))

    @classmethod
    def from_metrics(cls, metrics: Metrics) -> "Figures":
        """Figures in reports/metrics.json."""
        student, ratios = metrics.student, {f"fd {k}": v for k, v in metrics.ratio.fd.items()}
        for extractor, best in metrics.best_teacher.items():
            recall = metrics.teachers[best].values("recall")[extractor]
            ratios[f"recall {extractor}"] = student.values("recall")[extractor] / recall if recall else math.inf
        measures = {}
        for measure in list_compared():
            for extractor, value in student.values(measure.name).items():
                half_width = student.interval.values(measure.name)[extractor].half_width
                measures[f"{measure.name} {extractor}".strip()] = (value, half_width)
        protocol = json.dumps(metrics.provenance.model_dump(), sort_keys=True)
        marks = {k: metrics.ratio.mark(k) for k in metrics.ratio.marks()}
        return cls(measures, ratios, hashlib.sha256(protocol.encode()).hexdigest(), marks)


@dataclass(frozen=True)
class Contender:
    """A registered version with the figures that the gate compares."""

    version: str
    digest: str  # sha256 of the result; it breaks ties
    figures: Figures


def check_gate(gate: GateConfig) -> None:
    """Raise ConfigError if the gate names a measure that does not compare generators."""
    names = [measure.name for measure in list_compared()]
    for name in gate.measures:
        if name not in names:
            raise ConfigError(f"register.gate.measures: {name!r} is no measure; use {', '.join(names)}")


def missed_limit(figures: Figures, gate: GateConfig) -> str | None:
    """First absolute limit that the figures miss, as a sentence; None if they meet all."""
    for key, value in figures.ratios.items():
        name = figures.marked(key)
        if key.startswith("fd ") and value > gate.max_fd_ratio:
            return f"{name} is {value:.3f} times the teacher's; register.gate.max_fd_ratio is {gate.max_fd_ratio}"
        if key.startswith("recall ") and value < gate.min_recall_ratio:
            return f"{name} is {value:.3f} of the teacher's; register.gate.min_recall_ratio is {gate.min_recall_ratio}"
    return None


def advantage(a: Figures, b: Figures, gate: GateConfig) -> str | None:
    """First measure in which `a` beats `b`, as a sentence; None if `a` does not beat `b`."""
    better = None
    for key, (value_a, noise_a) in a.measures.items():
        kind = key.partition(" ")[0]
        if kind not in gate.measures or key not in b.measures:
            continue
        value_b, noise_b = b.measures[key]
        if (floor := MEASURES[kind].floor) is not None:  # values below it are noise, not better ones
            value_a, value_b = max(value_a, floor), max(value_b, floor)
        gain = (value_b - value_a) if MEASURES[kind].direction == "lower" else (value_a - value_b)
        noise = math.hypot(noise_a, noise_b)
        if gain < -noise:
            return None
        if better is None and gain > max(noise, gate.margin * abs(value_b)):
            figures = f"{value_a:.4g} against {value_b:.4g}, a difference of {gain:.2g} with noise {noise:.2g}"
            better = f"{a.marked(key)} {figures}"
    return better


def choose(contenders: Sequence[Contender], gate: GateConfig) -> Contender | None:
    """The contender that should be champion; None if no contender meets the limits."""
    fit = [c for c in contenders if missed_limit(c.figures, gate) is None]
    unbeaten = [c for c in fit if not any(advantage(other.figures, c.figures, gate) for other in fit)]
    return min(unbeaten or fit, key=_rank, default=None)


def explain(
    contender: Contender, champion: Contender | None, gate: GateConfig, others: Sequence[Contender] = ()
) -> str:
    """The reason why a version is champion or not, in one sentence.

    champion: None if no version that was compared meets the limits. others: the versions that `choose` chose from.
    """
    if reason := missed_limit(contender.figures, gate):
        return f"refused: {reason}"
    if champion is None:
        return (
            "not compared: evaluated with other extractors or another reference than the versions that were compared, "
            "of which none meets the limits; python -m flows.register --promote decides by hand"
        )
    if contender.version == champion.version:
        marks = ", ".join(k + mark for k, mark in contender.figures.marks.items())
        by = f" (marked judges: {marks})" if marks else ""
        fit = [c.figures for c in others if missed_limit(c.figures, gate) is None]
        in_circle = any(advantage(figures, contender.figures, gate) for figures in fit)
        why = "the lowest of all: versions beat each other in a circle" if in_circle else "and no version beats it"
        return f"champion: {_describe_ratio(contender)} is {_mean_ratio(contender):.3f}{by}, {why}"
    if contender.figures.protocol != champion.figures.protocol:
        return (
            f"not compared: evaluated with other extractors or another reference than version {champion.version}; "
            "python -m flows.register --promote decides by hand"
        )
    if reason := advantage(champion.figures, contender.figures, gate):
        return f"beaten by version {champion.version}: {reason}"
    ratios = (
        f"{_describe_ratio(contender)} is {_mean_ratio(contender):.3f}, the champion's is {_mean_ratio(champion):.3f}"
    )
    if reason := advantage(contender.figures, champion.figures, gate):
        return f"beats version {champion.version}, but versions beat each other in a circle: {reason}; {ratios}"
    return (
        f"within the noise{' or the margin' if gate.margin else ''} of version {champion.version}, or better in one "
        f"measure and worse in another; {ratios}"
    )


def _describe_ratio(contender: Contender) -> str:
    """Words for `_mean_ratio`."""
    count = sum(key.startswith("fd ") for key in contender.figures.ratios)
    return "FD over the teacher's" + (f" (geometric mean over {count} extractors)" if count > 1 else "")


def _mean_ratio(contender: Contender) -> float:
    """Geometric mean over extractors of FD over the teacher's."""
    ratios = [value for key, value in contender.figures.ratios.items() if key.startswith("fd ")]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _rank(contender: Contender) -> tuple[float, str]:
    return _mean_ratio(contender), contender.digest
