"""Invented metrics and timing, and inputs of a report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dmd.generator.pictures import image_grid, png
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import (
    ClassMeasures,
    ExtractorFacts,
    GeneratorMeasures,
    Intervals,
    Metrics,
    Nearest,
    Provenance,
    Ratio,
    RealMeasures,
)
from evaluation.report.page import ReportInputs, Subject
from evaluation.statistics.intervals import Interval
from evaluation.timing.schema import Host, Latency, Timing

NAMES: tuple[str, ...] = ("clip", "classifier")
OTHER = 0.5  # value of every measure that is not given


def generator_measures(
    fd: Mapping[str, float], half: float = 0.1, nfe: int = 1, replicates: int = 4, **given: Any
) -> GeneratorMeasures:
    """Measures of a generator by the extractors of `fd`: the given values, and OTHER for every other measure.

    The interval of each measure is value - half to value + half.
    """
    values: dict[str, Any] = {
        name: dict.fromkeys(fd, OTHER) if measure.per_extractor else OTHER for name, measure in MEASURES.items()
    }
    values |= {"fd": dict(fd)} | given

    def interval(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: interval(v) for k, v in value.items()}
        return None if value is None else Interval(low=value - half, high=value + half)

    return GeneratorMeasures(
        nfe=nfe,
        nearest={"evaluator": Nearest(median=0.9, held_out=1.0, closer=0.02)},
        classes={c: ClassMeasures(accuracy=0.9, coverage=0.5, diversity=1.1) for c in ("cat", "dog")},
        samples=1797,
        replicates=replicates,
        seed=0,
        interval=Intervals(**{name: interval(values[name]) for name, m in MEASURES.items() if m.has_interval}),
        **values,
    )


def real_measures(names: tuple[str, ...], **given: Any) -> RealMeasures:
    """Measures of held-out images: the given values, and 0.9 for every other measure."""
    values = {
        name: dict.fromkeys(names, 0.9) if m.per_extractor else 0.9 for name, m in MEASURES.items() if m.for_real_images
    }
    return RealMeasures(samples=300, **values | given)


def provenance(names: tuple[str, ...]) -> Provenance:
    return Provenance(
        reference_sha256="1" * 64,
        reference_images=1347,
        held_out_sha256="2" * 64,
        conditions_sha256="3" * 64,
        teacher_sha256="4" * 64,
        guidance_scale=1.0,
        neighbours=3,
        extractors=dict.fromkeys(names, ExtractorFacts(sha256="0" * 64, dimensions=64, resize="none")),
        skipped={"dinov2": "facebook/dinov2-base could not be fetched"},
    )


def run_metrics(student: GeneratorMeasures, ratio: Mapping[str, float], **given: Any) -> Metrics:
    """Metrics of a run: the student, its FD ratio per extractor, and a teacher of 50 steps with equal measures."""
    names = tuple(ratio)
    fields: dict[str, Any] = {
        "teachers": {"ddim_50": student.model_copy(update={"nfe": 50})},
        "real": real_measures(names),
        "best_teacher": dict.fromkeys(names, "ddim_50"),
        "provenance": provenance(names),
        "fd_replicates": {},
        "taken_over": [],
    }
    interval = {k: Interval(low=v - 0.1, high=v + 0.1) for k, v in ratio.items()}
    return Metrics(student=student, ratio=Ratio(fd=dict(ratio), interval=interval), **fields | given)


def measures(nfe: int, fd: float, half: float) -> GeneratorMeasures:
    """Measures of a generator in the report, whose FD by the two extractors is fd and 2 fd."""
    values = dict(zip(NAMES, (fd, 2 * fd), strict=True))
    result = generator_measures(
        values,
        half,
        nfe,
        fd_held_out={k: v + 0.2 for k, v in values.items()},
        fd_infinity={k: v - 0.1 for k, v in values.items()},
        kid=dict.fromkeys(NAMES, 0.0123),
        precision=dict.fromkeys(NAMES, 0.81),
        recall=dict.fromkeys(NAMES, 0.72),
        density=dict.fromkeys(NAMES, 0.93),
        coverage=dict.fromkeys(NAMES, 0.64),
        clip_score=30 + fd,
        accuracy=0.97,
    )
    kid = {k: Interval(low=0.0113, high=0.0133) for k in NAMES}
    return result.model_copy(update={"interval": result.interval.model_copy(update={"kid": kid})})


def report_metrics() -> Metrics:
    return run_metrics(
        measures(1, 0.84, 0.04),
        dict.fromkeys(NAMES, 1.2),
        teachers={f"ddim_{n}": measures(n, fd, 0.05) for n, fd in ((100, 0.7), (10, 3.6), (25, 1.7), (50, 1.0))},
        real=real_measures(NAMES, clip_score=31.0, accuracy=0.98, fd={"clip": 0.31, "classifier": 0.62}, recall={}),
        best_teacher=dict.fromkeys(NAMES, "ddim_100"),
    )


def report_timing() -> Timing:
    return Timing(
        student=Latency(nfe=1, seconds_per_image=0.0005, seconds_alone=0.004, gflops_per_image=0.01),
        teachers={
            f"ddim_{n}": Latency(
                nfe=n, seconds_per_image=0.0005 * n, seconds_alone=0.004 * n, gflops_per_image=0.01 * n
            )
            for n in (10, 25, 50, 100)
        },
        speedup={f"ddim_{n}": float(n) for n in (10, 25, 50, 100)},
        images_per_second=2500.0,
        best_batch=256,
        parameters=177_553,
        batch_size=64,
        repeats=5,
        peak_memory_mib=500.0,
        host=Host(machine="x", processor="", device="cpu", threads=2, python="3", torch="2"),
    )


def report_inputs(metrics: Metrics, timing: Timing | None) -> ReportInputs:
    turn = np.arange(700)
    values = np.random.default_rng(0).random(700)
    losses = pd.DataFrame({"turn": turn, "loss_dm": values, "critic_grad_norm": values, "unheard_of": values})
    losses = losses.assign(score=np.where(turn % 100 == 0, values, np.nan), blank=np.nan)
    picture = png(image_grid(np.zeros((1, 1, 1, 8, 8), np.uint8)))
    pictures = {
        "side by side": picture,
        "turn 200": picture,
        "turn 1,000": picture,
        "after 100 generator turns": picture,
    }
    facts = {"reproduce": "make demo && echo <done>"}
    return ReportInputs(metrics, timing, losses, pictures, facts, Subject("digits", "dmd"), title="A <title>")
