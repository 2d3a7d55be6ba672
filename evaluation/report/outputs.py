"""Files of the evaluate stage."""

from pathlib import Path

from dmd.storage.events import describe, read_events
from dmd.storage.files import sha256, write_bytes, write_text
from evaluation.metrics.files import write_metrics
from evaluation.metrics.schema import write_model
from evaluation.report.page import ReportInputs, render_report
from evaluation.report.quality import write_quality
from evaluation.timing.versions import installed_versions

HASHED = ("data", "teacher", "evaluator", "baseline", "generator")  # inputs whose hashes the report lists


def collect_facts(inputs: dict[str, Path], training: Path) -> dict[str, str]:
    """Facts of the report: events of the training, hashes of inputs, versions of packages, and how to reproduce it.

    inputs: files and folders by name, of which those in HASHED count. training: the records of stage `train`.
    """
    events = {f"training went wrong at turn {event['turn']}": describe(event) for event in read_events(training)}
    hashes = {f"{name} sha256": sha256(path) for name, path in inputs.items() if name in HASHED}
    return events | hashes | installed_versions() | {"reproduce": "dvc repro, with the params.yaml of this run"}


def write_outputs(
    inputs: ReportInputs,
    metrics: Path,
    details: Path,
    timing: Path,
    quality: Path,
    plots: Path,
    samples: Path,
    report: Path,
) -> None:
    """Write all outputs of the stage; the first picture is also written to `samples`, for DVC and MLflow."""
    write_text(report, render_report(inputs))
    write_bytes(samples, next(iter(inputs.pictures.values())))
    write_quality(inputs.metrics, quality, plots)
    if inputs.timing:
        write_model(inputs.timing, timing)
    write_metrics(inputs.metrics, metrics, details)
