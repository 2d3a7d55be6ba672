"""Which version deserves to be champion: a rule over recorded figures, pure, and blind to the order of versions.

Of the versions that pass the absolute limits, one *beats* another where it is better by a gated measure, outside the
noise of both, and worse by none. Champion is the unbeaten one with the lowest ratio to its teacher; among equals that
choice within the noise is arbitrary, but it is the same whoever was registered first.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dmd.config import GateConfig

LOWER_IS_BETTER = ("fd", "kid")
MEASURES = ("fd", "kid", "precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Figures:
    """What the gate sees of a result. Keys are like `fd classifier`: measure and judge."""

    measures: dict[str, tuple[float, float]]  # value, and half of its 95 % interval
    ratios: dict[str, float]  # FD and recall over those of the teacher's best sampler
    judges: str  # sha256 of the judges' weights and the reference: figures of other judges cannot be compared

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Figures":
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Contender:
    """A registered version, as far as the gate is concerned."""

    version: str
    result: str  # sha256 of the result: what ties are broken by
    figures: Figures


def figures_of(metrics: dict[str, Any]) -> Figures:
    """From reports/metrics.json."""
    student, ratios = metrics["student"], {f"fd {k}": v for k, v in metrics["ratio"]["fd"].items()}
    for judge, best in metrics["best_teacher"].items():
        theirs = metrics["teachers"][best]["recall"][judge]
        ratios[f"recall {judge}"] = student["recall"][judge] / theirs if theirs else math.inf
    measures = {}
    for kind in MEASURES:
        for judge, value in student[kind].items():
            interval = student["interval"][kind][judge]
            measures[f"{kind} {judge}"] = (value, (interval["high"] - interval["low"]) / 2)
    judged = json.dumps(metrics["judged"], sort_keys=True)
    return Figures(measures, ratios, hashlib.sha256(judged.encode()).hexdigest())


def unfit(figures: Figures, gate: GateConfig) -> str | None:
    """The first absolute limit that is missed, as words."""
    for key, value in figures.ratios.items():
        if key.startswith("fd ") and value > gate.max_fd_ratio:
            return f"{key} is {value:.3f} times the teacher's; register.gate.max_fd_ratio is {gate.max_fd_ratio}"
        if key.startswith("recall ") and value < gate.min_recall_ratio:
            return f"{key} is {value:.3f} of the teacher's; register.gate.min_recall_ratio is {gate.min_recall_ratio}"
    return None


def beats(a: Figures, b: Figures, gate: GateConfig) -> str | None:
    """Where a is better than b, as words; None unless it is better somewhere and worse nowhere, outside the noise."""
    better = None
    for key, (mine, my_noise) in a.measures.items():
        kind = key.partition(" ")[0]
        if kind not in gate.measures or key not in b.measures:
            continue
        theirs, their_noise = b.measures[key]
        gain = (theirs - mine) if kind in LOWER_IS_BETTER else (mine - theirs)
        noise = math.hypot(my_noise, their_noise)
        if gain < -noise:
            return None
        if better is None and gain > max(noise, gate.margin * abs(theirs)):
            better = f"{key} {mine:.4g} against {theirs:.4g}, a difference of {gain:.2g} with a noise of {noise:.2g}"
    return better


def best(contenders: Sequence[Contender], gate: GateConfig) -> Contender | None:
    """The one that should be champion; None where nobody passes the limits."""
    fit = [c for c in contenders if unfit(c.figures, gate) is None]
    unbeaten = [c for c in fit if not any(beats(other.figures, c.figures, gate) for other in fit)]
    return min(unbeaten or fit, key=_rank, default=None)


def verdict(one: Contender, champion: Contender, gate: GateConfig) -> str:
    """Why a version is champion, or is not, in one sentence."""
    if reason := unfit(one.figures, gate):
        return f"refused: {reason}"
    if one.version == champion.version:
        return f"champion: FD over the teacher's {_ratio(one):.3f}, and no version beats it"
    if one.figures.judges != champion.figures.judges:
        return f"not compared: other judges than version {champion.version}'s; flows.register --promote decides by hand"
    if reason := beats(champion.figures, one.figures, gate):
        return f"beaten by version {champion.version}: {reason}"
    return (
        f"within the noise of version {champion.version}, or better and worse at once; its FD over the teacher's is "
        f"{_ratio(one):.3f}, the champion's {_ratio(champion):.3f}"
    )


def _ratio(one: Contender) -> float:
    """Geometric mean over judges."""
    ratios = [value for key, value in one.figures.ratios.items() if key.startswith("fd ")]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _rank(one: Contender) -> tuple[float, str]:
    return _ratio(one), one.result
