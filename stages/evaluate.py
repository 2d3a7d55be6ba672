"""Stage `evaluate`: the student judged as the teacher was -> metrics, timing, pictures, report."""

import argparse

import pandas as pd
import torch
from safetensors.torch import load_file

from dmd.config import Params
from dmd.data.splits import load_split, load_splits
from dmd.encoding.encoding import load_encoded
from dmd.generator.generator import load_generator
from dmd.storage.files import sha256, write_bytes, write_text
from dmd.teachers.teacher import load_teacher
from evaluation.evaluator.evaluator import Judge, Panel
from evaluation.evaluator.reference import Reference
from evaluation.features.store import FeatureStore
from evaluation.metrics.schema import Baseline, Measures, Metrics, Ratio, Scores, write_record
from evaluation.report.page import ReportInputs, render_report
from evaluation.report.quality import write_quality
from evaluation.report.sheet import comparison_sheet, nearest_sheet
from evaluation.statistics.intervals import ratio_interval
from evaluation.timing.latency import time_samplers
from evaluation.timing.versions import versions
from stages.command import run

NEAREST = "Of 50 images per class, those nearest to a training image (evaluator), and that image"
INPUTS = ("data", "teacher", "encoded", "evaluator", "baseline", "generator", "losses", "validation")
SHOWN = ("data", "teacher", "evaluator", "baseline", "generator")  # by their hashes in the report


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    panel = Panel.load(args.evaluator, params.extractors, device)
    judge = Judge(panel, Reference.load(args.baseline), FeatureStore.default(panel.sha256))
    real = load_splits(args.data, judge.reference.splits, with_images=False)
    test = load_split(args.data, "test", with_images=False)
    texts = load_encoded(args.encoded).texts
    teacher = load_teacher(args.teacher, device, params.guidance.scale, judge.reference.captions, texts)
    generator = load_generator(args.generator, device)
    student, size = generator.sampler(), sum(p.numel() for p in generator.denoiser.parameters())
    baseline = Baseline.model_validate_json((args.baseline / "baseline.json").read_text())
    cfg = params.evaluate
    measures, scores = judge.judge(student, cfg.seed, cfg.batch_size, sha256(args.generator))
    metrics = Metrics(**dict(baseline), student=measures, ratio=compared(measures, scores, baseline))
    samplers = [teacher.sampler(name) for name in baseline.teachers]
    timed = judge.reference.labels[: params.evaluate.timing_batch]
    timing = time_samplers(student, samplers, timed, params.evaluate.timing_repeats, size)
    shown = load_file(args.baseline / "pictures.safetensors")[
        max(baseline.teachers, key=lambda k: baseline.teachers[k].nfe)
    ]
    picture = comparison_sheet(judge, test, shown, student, cfg.batch_size)
    same = f"Same labels: {'held-out images, ' if test.has_images else ''}teacher, student"
    nearest = {NEAREST: nearest_sheet(judge, real, student, cfg.batch_size)} if real.has_images else {}
    over_time = {
        f"after {int(p.stem[5:])} generator turns": p.read_bytes() for p in sorted(args.validation.glob("*.png"))
    }
    facts = {f"{name} sha256": sha256(getattr(args, name)) for name in SHOWN} | versions()
    facts["reproduce"] = "dvc repro, with the params.yaml of this run"
    report = ReportInputs(
        title="A teacher and its one-step student",
        metrics=metrics.model_dump(),
        timing=timing.model_dump(),
        losses=pd.read_csv(args.losses),
        pictures={same: picture} | nearest | over_time,
        facts=facts,
    )
    write_text(args.report, render_report(report))
    write_bytes(args.samples, picture)
    write_quality(metrics.model_dump(), args.quality, args.plots)
    write_record(timing, args.timing)
    write_record(metrics, args.metrics)
    return "student / best teacher, Frechet distance: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.ratio.fd.items())


def compared(student: Measures, scores: list[Scores], baseline: Baseline) -> Ratio:
    """Student against the teacher's best sampler, per extractor, with an interval from both sides' draws."""
    fd, interval = {}, {}
    for k, best in baseline.best_teacher.items():
        fd[k] = student.fd[k] / baseline.teachers[best].fd[k]
        interval[k] = ratio_interval([s.fd[k] for s in scores], baseline.fd_draws[best][k])
    return Ratio(fd=fd, interval=interval)


if __name__ == "__main__":
    run("evaluate", main, inputs=INPUTS, outs=("metrics", "timing", "quality", "plots", "samples", "report"))
