"""Compare the recorded figures of a version with those of a new evaluation.

The recorded sampling noise must give the recorded figures to the last digit; if it does not, libraries, data or
hardware have changed. Fresh sampling noise must give figures that agree within the intervals of both.
"""

import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any

from evaluation.metrics.measures import list_compared
from evaluation.metrics.schema import GeneratorMeasures


@dataclass(frozen=True)
class DriftReport:
    """Outcome of a check of a version, each difference in words."""

    model: str
    changed: list[str]  # figures that the recorded noise does not reproduce
    drifted: list[str]  # figures that differ with fresh noise by more than the intervals allow
    packages: list[str]  # packages whose installed version differs from the recorded version
    seed: int  # seed of the fresh noise
    recorded: dict[str, Any]
    fresh: dict[str, Any]

    @property
    def steady(self) -> bool:
        """Whether all figures agree."""
        return not self.changed and not self.drifted

    def to_dict(self) -> dict[str, Any]:
        """Content of the file runs/watch/TIME.json."""
        return {
            "model": self.model,
            "steady": self.steady,
            "changed": self.changed,
            "drifted": self.drifted,
            "packages": self.packages,
            "seed": self.seed,
            "recorded": self.recorded,
            "fresh": self.fresh,
        }

    def text(self) -> str:
        """The report as text: one line if the champion is steady, else a list of the differences."""
        if self.steady:
            return f"{self.model}: steady; the recorded noise gives the recorded figures, fresh noise agrees with them"
        lines = [f"{self.model}: not steady"]
        for title, differences in (
            ("the recorded noise gives other figures: libraries, data or hardware have changed", self.changed),
            ("fresh noise gives figures that differ by more than the intervals allow", self.drifted),
            ("packages are installed in other versions than recorded", self.packages),
        ):
            if differences:
                lines += [f"{title}:", *(f"- {line}" for line in differences)]
        return "\n".join(lines)


def find_exact_differences(recorded: GeneratorMeasures, repeated: GeneratorMeasures) -> list[str]:
    """Figures that are not equal to the last digit."""
    return [
        f"{f'{measure.name} {extractor}'.strip()}: {value!r} recorded, {now!r} now"
        for measure in list_compared()
        for extractor, value in recorded.values(measure.name).items()
        if (now := repeated.values(measure.name)[extractor]) != value
    ]


def find_drift(recorded: GeneratorMeasures, fresh: GeneratorMeasures) -> list[str]:
    """Figures that differ by more than sqrt(a^2 + b^2), where a and b are the half widths of their intervals."""
    differences = []
    for name in (measure.name for measure in list_compared()):
        for extractor, value in recorded.values(name).items():
            now = fresh.values(name)[extractor]
            noise = math.hypot(*(m.interval.values(name)[extractor].half_width for m in (recorded, fresh)))
            if abs(now - value) > noise:
                text = f"{value:.4g} recorded, {now:.4g} with fresh noise, noise {noise:.2g}"
                differences.append(f"{f'{name} {extractor}'.strip()}: {text}")
    return differences


def find_other_packages(requirements: list[str]) -> list[str]:
    """Packages of a requirements file (NAME==VERSION) that are missing or installed in another version."""
    differences = []
    for requirement in requirements:
        name, _, recorded = requirement.partition("==")
        try:
            now = package_version(name).partition("+")[0]
        except PackageNotFoundError:
            now = "not installed"
        if now != recorded:
            differences.append(f"{name}: {recorded} recorded, {now} now")
    return differences
