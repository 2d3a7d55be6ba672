"""Files of the evaluate stage."""

from pathlib import Path

from dmd.storage.files import sha256, write_bytes, write_text
from evaluation.metrics.schema import write_model
from evaluation.report.page import ReportInputs, render_report
from evaluation.report.quality import write_quality
from evaluation.timing.versions import installed_versions


def collect_facts(inputs: dict[str, Path]) -> dict[str, str]:
    """Facts of the report: hashes of the inputs, versions of packages, and the command that reproduces it."""
    hashes = {f"{name} sha256": sha256(path) for name, path in inputs.items()}
    return hashes | installed_versions() | {"reproduce": "dvc repro, with the params.yaml of this run"}


def write_outputs(
    inputs: ReportInputs, metrics: Path, timing: Path, quality: Path, plots: Path, samples: Path, report: Path
) -> None:
    """Write all outputs of the stage; the first picture is also written to `samples`, for DVC and MLflow."""
    write_text(report, render_report(inputs))
    write_bytes(samples, next(iter(inputs.pictures.values())))
    write_quality(inputs.metrics, quality, plots)
    if inputs.timing:
        write_model(inputs.timing, timing)
    write_model(inputs.metrics, metrics)
