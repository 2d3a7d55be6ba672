"""Checks that the extractors and judges on this machine are those that a baseline was evaluated with."""

from pathlib import Path

from dmd.errors import EvaluatorError
from evaluation.features.extractors import Extractors
from evaluation.metrics.schema import Baseline, read_model

REMEDY = "run dvc repro --force baseline"  # DVC does not see weights outside the project that change


def check_agreement(extractors: Extractors, baseline: Path) -> None:
    """Raise EvaluatorError if an extractor is on one side only, or if an extractor or judge has other weights.

    baseline: folder of that stage. Its features would be compared with those of another network, or with none. A judge
    on one side only is no error: it has no figures for the other side.
    """
    provenance = read_model(Baseline, baseline / "baseline.json").provenance
    there, here = {k: facts.sha256 for k, facts in provenance.extractors.items()}, extractors.networks
    for name in dict.fromkeys([*here, *there]):
        if name not in there:
            raise EvaluatorError(f"{baseline} was evaluated without the extractor {name}; {REMEDY}")
        if name not in here:
            reason = f" ({extractors.skipped[name]})" if name in extractors.skipped else ""
            raise EvaluatorError(
                f"{baseline} was evaluated with the extractor {name}, which is not here{reason}; get its weights, or "
                f"{REMEDY}"
            )
        if extractors.sha256[name] != there[name]:
            raise EvaluatorError(f"{baseline} was evaluated with other weights of the extractor {name}; {REMEDY}")
    for name, facts in provenance.judges.items():
        if name in extractors.judges and extractors.judges[name].facts != facts:
            raise EvaluatorError(f"{baseline} was evaluated with other weights of the judge {name}; {REMEDY}")
