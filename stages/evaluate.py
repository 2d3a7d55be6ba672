"""Stage `evaluate`: the student judged as the teacher was -> metrics, timing, pictures, report."""

import argparse

import pandas as pd
import torch
from safetensors.torch import load_file

from dmd.config import Params
from dmd.data import load_split
from dmd.files import sha256, write_bytes, write_text
from dmd.generator import load_generator
from dmd.teachers import load_teacher
from evaluation.judge import Judge
from evaluation.latency import time_samplers
from evaluation.report import ReportInputs, render_report
from evaluation.schema import Baseline, Metrics, Ratio, write_record
from evaluation.sheet import comparison_sheet
from evaluation.versions import versions
from stages.common import run

INPUTS = ("data", "teacher", "evaluator", "baseline", "generator", "losses", "validation")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    judge = Judge.load(args.evaluator, args.baseline, device)
    test = load_split(args.data, "test")
    teacher = load_teacher(args.teacher, device, params.guidance.scale, test.class_captions)
    student = load_generator(args.generator, device).sampler()
    baseline = Baseline.model_validate_json((args.baseline / "baseline.json").read_text())
    measures = judge.judge(student, params.evaluate.seed, params.evaluate.batch_size)
    ratio = {k: measures.fd[k] / baseline.teachers[best].fd[k] for k, best in baseline.best_teacher.items()}
    metrics = Metrics(**dict(baseline), student=measures, ratio=Ratio(fd=ratio))
    samplers = [teacher.sampler(m.nfe) for m in baseline.teachers.values()]
    timed = judge.reference.labels[: params.evaluate.timing_batch]
    timing = time_samplers(student, samplers, timed, params.evaluate.timing_repeats)
    shown = load_file(args.baseline / "pictures.safetensors")[
        max(baseline.teachers, key=lambda k: baseline.teachers[k].nfe)
    ]
    picture = comparison_sheet(judge, test, shown, student)
    over_time = {
        f"after {int(p.stem[5:])} generator turns": p.read_bytes() for p in sorted(args.validation.glob("*.png"))
    }
    facts = (
        {f"{name} sha256": sha256(getattr(args, name)) for name in INPUTS[:5]} | versions() | {"reproduce": "dvc repro"}
    )
    report = ReportInputs(
        title="A teacher and its one-step student",
        metrics=metrics.model_dump(),
        timing=timing.model_dump(),
        losses=pd.read_csv(args.losses),
        pictures={"Same labels: held-out images, teacher, student (one step)": picture} | over_time,
        facts=facts,
    )
    write_text(args.report, render_report(report))
    write_bytes(args.samples, picture)
    write_record(timing, args.timing)
    write_record(metrics, args.metrics)
    return "student / best teacher, Frechet distance: " + ", ".join(f"{k} {v:.3f}" for k, v in ratio.items())


if __name__ == "__main__":
    run("evaluate", main, inputs=INPUTS, outs=("metrics", "timing", "samples", "report"))
