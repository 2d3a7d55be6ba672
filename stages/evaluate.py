"""Stage `evaluate`: the student evaluated as the teacher was, with metrics, timing, pictures and the report."""

import argparse

import pandas as pd
import torch

from dmd.config import Params
from dmd.data.splits import load_splits
from dmd.encoding.encoded import load_encoded
from dmd.generator.generator import load_generator
from dmd.teachers.teacher import load_teacher
from dmd.training.shared_work import SharedWork
from evaluation.evaluator.evaluator import Evaluator
from evaluation.evaluator.student import add_student, name_source
from evaluation.metrics.schema import Baseline, read_model
from evaluation.report.outputs import collect_facts, write_outputs
from evaluation.report.page import ReportInputs, Subject
from evaluation.report.sheet import draw_pictures, load_teacher_cells
from evaluation.timing.latency import time_samplers
from stages.command import run

INPUTS = ("data", "teacher", "encoded", "evaluator", "baseline", "generator", "losses", "validation")
OUTS = ("metrics", "details", "timing", "quality", "plots", "samples", "report")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg, guidance = params.evaluate, params.guidance
    evaluator = Evaluator.load(args.evaluator, args.baseline, params.extractors, device, SharedWork.join(device))
    baseline, reference = read_model(Baseline, args.baseline / "baseline.json"), evaluator.reference
    real, test = (load_splits(args.data, names, with_images=False) for names in (reference.splits, ["test"]))
    encoded = load_encoded(args.encoded, reference.captions)
    teacher = load_teacher(args.teacher, device, guidance.scale, *encoded.stored, *guidance.details, cfg.precision)
    generator = load_generator(args.generator, device, stored=encoded.stored, precision=cfg.precision)
    student, size = generator.sampler(), sum(p.numel() for p in generator.denoiser.parameters())
    facts = collect_facts({name: getattr(args, name) for name in INPUTS}, args.validation)
    measures, scores = evaluator.evaluate(student, cfg.seed, cfg.batch_size, name_source(facts, cfg.precision))
    if not evaluator.work.is_main:  # the rest is timed, drawn and written once
        return "done"
    metrics = add_student(baseline, measures, scores, args.validation, args.evaluator, bool(reference.class_names))
    timing = time_samplers(student, [teacher.sampler(name) for name in baseline.teachers], reference.labels, cfg, size)
    cells, subject = load_teacher_cells(args.baseline, baseline), Subject(params.data.source, params.method.title)
    pictures = draw_pictures(evaluator, real, test, cells, student, cfg.batch_size, args.validation)
    report = ReportInputs(metrics, timing, pd.read_csv(args.losses), pictures, facts, subject)
    write_outputs(report, **{name: getattr(args, name) for name in OUTS})
    return f"FD, student / best teacher: {metrics.ratio}"


if __name__ == "__main__":
    run("evaluate", main, inputs=INPUTS, outs=OUTS, shared=True)
