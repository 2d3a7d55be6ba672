"""Reuse the teacher's measures of an earlier run if everything that they depend on is the same.

Evaluating a teacher at six numbers of steps takes hours on a CPU; stored measures save this time.
"""

from dataclasses import dataclass
from pathlib import Path

from dmd.config import NONE, BaselineConfig
from dmd.errors import EvaluatorError
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Baseline, GeneratorMeasures, Provenance

# Fields of the provenance that do not prevent reuse: extractors missing on this machine, and what KID alone depends on.
INDEPENDENT = {"skipped", "kernel_pairs"}


@dataclass(frozen=True)
class ReusableMeasures:
    """Measures and FD of each replicate by sampler, or the names of the settings that prevent their reuse."""

    teachers: dict[str, tuple[GeneratorMeasures, dict[str, list[float]]]]
    differences: str


def find_reusable(cfg: BaselineConfig, samplers: list[str], provenance: Provenance) -> ReusableMeasures:
    """Read the measures of these samplers from the file cfg.measured, if its provenance and plan equal this run's.

    Raises EvaluatorError if the file is not a baseline.json.
    """
    if (earlier := read_earlier(cfg)) is None:
        return ReusableMeasures({}, "")
    fields = set(Provenance.model_fields) - INDEPENDENT
    differences = sorted(k for k in fields if getattr(earlier.provenance, k) != getattr(provenance, k))
    differences += compare_plans(cfg, earlier)
    names = [] if differences else [name for name in samplers if name in earlier.teachers]
    outdated = {"kid"} if earlier.provenance.kernel_pairs != provenance.kernel_pairs else set[str]()
    measures = {name: (leave_blank(earlier.teachers[name], outdated), earlier.fd_replicates[name]) for name in names}
    return ReusableMeasures(measures, ", ".join(differences))


def leave_blank(measures: GeneratorMeasures, outdated: set[str]) -> GeneratorMeasures:
    """Measures without values for those that the file lacks, or whose definition has changed since."""
    blank = [m for m in MEASURES.values() if m.name in outdated or not measures.values(m.name)]
    values = {m.name: {} if m.per_extractor else None for m in blank}
    intervals = {m.name: values[m.name] for m in blank if m.has_interval}
    return measures.model_copy(update={**values, "interval": measures.interval.model_copy(update=intervals)})


def read_earlier(cfg: BaselineConfig) -> Baseline | None:
    """Read the file cfg.measured; None if no file is given. Raises EvaluatorError if it is not a baseline.json."""
    if cfg.measured == NONE:
        return None
    file = Path(cfg.measured)
    try:
        return Baseline.model_validate_json(file.read_text())
    except ValueError as e:  # invalid text, JSON or contents
        reason = " ".join(str(e).split())[:120]
        raise EvaluatorError(f"baseline.measured: {file} is not a baseline.json of this version ({reason})") from None


def compare_plans(cfg: BaselineConfig, earlier: Baseline) -> list[str]:
    """Names among samples, draws and seed whose values differ from the earlier run's."""
    teachers = earlier.teachers.values()
    return [
        key
        for key, field in (("samples", "samples"), ("draws", "replicates"), ("seed", "seed"))
        if any(getattr(m, field) != getattr(cfg, key) for m in teachers)
    ]
