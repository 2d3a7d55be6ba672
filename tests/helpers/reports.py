"""Invented metrics and timing, and the inputs of a report."""

from typing import Any

import numpy as np
import pandas as pd

from dmd.generator.pictures import image_grid, png
from evaluation.metrics.schema import (
    ClassMeasures,
    ExtractorFacts,
    Host,
    Intervals,
    Judged,
    Latency,
    Measures,
    Metrics,
    Nearest,
    Ratio,
    RealMeasures,
    Timing,
)
from evaluation.report.page import ReportInputs
from evaluation.statistics.intervals import Interval

NAMES: tuple[str, ...] = ("clip", "classifier")


def measures(nfe: int, fd: float, half: float) -> Measures:
    values = dict(zip(NAMES, (fd, 2 * fd), strict=True))
    return Measures(
        nfe=nfe,
        fd=values,
        fd_held_out={k: v + 0.2 for k, v in values.items()},
        fd_infinity={k: v - 0.1 for k, v in values.items()},
        kid=dict.fromkeys(NAMES, 0.0123),
        precision=dict.fromkeys(NAMES, 0.81),
        recall=dict.fromkeys(NAMES, 0.72),
        density=dict.fromkeys(NAMES, 0.93),
        coverage=dict.fromkeys(NAMES, 0.64),
        nearest={"evaluator": Nearest(median=0.9, held_out=1.0, closer=0.02)},
        clip_score=30 + fd,
        accuracy=0.97,
        classes={c: ClassMeasures(accuracy=0.9, coverage=0.5, diversity=1.1) for c in ("cat", "dog")},
        samples=1797,
        draws=4,
        seed=0,
        interval=Intervals(
            fd={k: Interval(low=v - half, high=v + half) for k, v in values.items()},
            kid={k: Interval(low=0.0113, high=0.0133) for k in NAMES},
            **{k: {} for k in ("fd_held_out", "precision", "recall", "density", "coverage")},
            clip_score=None,
            accuracy=None,
        ),
    )


def report_metrics() -> dict[str, Any]:
    teachers = {f"ddim_{n}": measures(n, fd, 0.05) for n, fd in ((100, 0.7), (10, 3.6), (25, 1.7), (50, 1.0))}
    shares = dict.fromkeys(NAMES, 0.9)
    real = RealMeasures(
        clip_score=31.0,
        accuracy=0.98,
        fd={"clip": 0.31, "classifier": 0.62},
        precision=shares,
        recall={},
        density=shares,
        coverage=shares,
        samples=300,
    )
    about = ExtractorFacts(sha256="0" * 64, dimensions=64, resize="none")
    judged = Judged(
        reference_sha256="1" * 64,
        reference_images=1347,
        held_out_sha256="2" * 64,
        conditions_sha256="3" * 64,
        teacher_sha256="4" * 64,
        guidance_scale=1.0,
        neighbours=3,
        extractors=dict.fromkeys(NAMES, about),
        skipped={"dinov2": "facebook/dinov2-base could not be fetched"},
    )
    return Metrics(
        student=measures(1, 0.84, 0.04),
        teachers=teachers,
        real=real,
        best_teacher=dict.fromkeys(NAMES, "ddim_100"),
        judged=judged,
        fd_draws={},
        taken_over=[],
        ratio=Ratio(fd=dict.fromkeys(NAMES, 1.2), interval=dict.fromkeys(NAMES, Interval(low=1.1, high=1.3))),
    ).model_dump()


def report_timing() -> dict[str, Any]:
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
    ).model_dump()


def report_inputs(metrics: dict[str, Any], timing: dict[str, Any]) -> ReportInputs:
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
    return ReportInputs("A <title>", metrics, timing, losses, pictures, {"reproduce": "make demo && echo <done>"})
