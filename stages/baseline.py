"""Stage `baseline`: reference statistics, and the teacher evaluated at each number of steps, once for all ablations."""

import argparse

import torch

from dmd.config import Params
from dmd.encoding.encoded import load_encoded
from dmd.storage.files import new_folder, sha256
from dmd.teachers.check import check_fits
from dmd.teachers.teacher import load_teacher
from evaluation.evaluator.baseline import TeacherIdentity, build_baseline, describe_baseline, list_samplers
from evaluation.evaluator.reference import EvaluationData
from evaluation.features.extractors import Extractors
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg, scale = params.baseline, params.guidance.scale
    data = EvaluationData.load(args.data, cfg.reference)
    texts = load_encoded(args.encoded).texts
    teacher = load_teacher(args.teacher, device, scale, data.train.class_captions, texts)
    check_fits(teacher, data.train.shape, len(data.train.class_names))
    extractors = Extractors.load(args.evaluator, params.extractors, device)
    samplers = [teacher.sampler(name) for name in list_samplers(cfg)]
    identity = TeacherIdentity(sha256(args.teacher), scale)
    with new_folder(args.out) as folder:
        baseline = build_baseline(cfg, samplers, identity, data, extractors, device.type, folder)
    return describe_baseline(baseline, cfg.measured)


if __name__ == "__main__":
    run("baseline", main, inputs=("data", "teacher", "encoded", "evaluator"), outs=("out",))
