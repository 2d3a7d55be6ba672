"""Figures of the teacher that an earlier run measured: they are taken over where all that they depend on is the same.

To judge a teacher at six step counts takes hours on a CPU, and a teacher that is passed on brings them along.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dmd.config import NONE, BaselineConfig
from dmd.errors import EvaluatorError
from evaluation.metrics.schema import Baseline, Judged, Measures

OF_THE_PLACE = {"skipped"}  # it says what is not at hand here


@dataclass(frozen=True)
class Earlier:
    """By sampler, its measures and its Frechet distances draw by draw; and what keeps them from being taken over."""

    teachers: dict[str, tuple[Measures, dict[str, list[float]]]]
    differs: str


def take_over(cfg: BaselineConfig, names: list[str], judged: Judged) -> Earlier:
    """What the file that cfg.measured names says of these samplers, if it was measured as it would be here.

    judged: what would stand behind the figures of this run. Raises EvaluatorError as `read` does.
    """
    if (earlier := read(cfg)) is None:
        return Earlier({}, "")
    fields = set(Judged.model_fields) - OF_THE_PLACE
    differs = sorted(k for k in fields if getattr(earlier.judged, k) != getattr(judged, k)) + off_plan(cfg, earlier)
    here = [] if differs else [name for name in names if name in earlier.teachers]
    return Earlier({name: (earlier.teachers[name], earlier.fd_draws[name]) for name in here}, ", ".join(differs))


def read(cfg: BaselineConfig) -> Baseline | None:
    """The file that cfg.measured names, None for none. Raises EvaluatorError if it is no baseline.json."""
    if cfg.measured == NONE:
        return None
    file = Path(cfg.measured)
    try:
        return Baseline.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError) as e:
        why = " ".join(str(e).split())[:120]
        raise EvaluatorError(f"baseline.measured: {file} is not a baseline.json of this version ({why})") from None


def off_plan(cfg: BaselineConfig, earlier: Baseline) -> list[str]:
    """In which of samples, draws and seed the earlier run differs."""
    plan = {"samples": cfg.samples, "draws": cfg.draws, "seed": cfg.seed}
    return [k for k, v in plan.items() if any(getattr(m, k) != v for m in earlier.teachers.values())]
