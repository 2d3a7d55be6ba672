"""Stage `baseline`: reference statistics, and the teacher evaluated at each number of steps, once for all ablations."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dmd.config import Params
from dmd.encoding.encoded import load_encoded
from dmd.storage.files import new_folder, sha256
from dmd.teachers.check import check_fits
from dmd.teachers.teacher import load_teacher
from dmd.training.shared_work import SharedWork
from evaluation.evaluator.baseline import TeacherIdentity, build_baseline, describe_baseline, list_samplers
from evaluation.evaluator.reference import EvaluationData
from evaluation.features.extractors import Extractors
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg, guidance = params.baseline, params.guidance
    data = EvaluationData.load(args.data, cfg.reference)
    encoded = load_encoded(args.encoded, data.train.class_captions)
    teacher = load_teacher(args.teacher, device, guidance.scale, *encoded.stored, *guidance.details, cfg.precision)
    check_fits(teacher, data.train.shape, len(data.train.class_names))
    extractors = Extractors.load(args.evaluator, params.extractors, device)
    samplers = [teacher.sampler(name) for name in list_samplers(cfg)]
    identity = TeacherIdentity(sha256(args.teacher), guidance.scale, *guidance.details, cfg.precision)
    work = SharedWork.join(device)
    with new_folder(args.out) if work.is_main else TemporaryDirectory() as folder:
        baseline = build_baseline(cfg, samplers, identity, data, extractors, device.type, Path(folder), work)
    return describe_baseline(baseline, cfg.measured)


if __name__ == "__main__":
    run("baseline", main, inputs=("data", "teacher", "encoded", "evaluator"), outs=("out",), shared=True)
