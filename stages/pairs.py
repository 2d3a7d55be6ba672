"""Stage `pairs`: deterministic teacher pairs (z, x) for the regression loss; count 0 writes an empty store."""

import argparse
from collections import deque

import torch

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.encoding.encoded import load_encoded
from dmd.storage.checkpoint import Scratch, code_hash
from dmd.teachers.check import check_fits
from dmd.teachers.pairs import make_pairs, save_pairs
from dmd.teachers.teacher import load_teacher
from dmd.training.shared_work import SharedWork
from stages.command import run

INPUTS = ("data", "teacher", "encoded")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    train = load_split(args.data, "train", with_images=False)  # only its labels or prompts are used
    encoded, guidance = load_encoded(args.encoded, train.class_captions), params.guidance
    teacher = load_teacher(
        args.teacher, device, guidance.scale, *encoded.stored, *guidance.details, params.pairs.precision
    )
    check_fits(teacher, train.shape, len(train.class_names))
    groups = {g: getattr(params, g).model_dump() for g in ("guidance", "pairs")} | {"runtime": params.runtime.bits()}
    scratch = Scratch("pairs", groups | {"code": code_hash()}, {name: getattr(args, name) for name in INPUTS})
    share = SharedWork.join(device)
    if share.processes > 1:
        deque(make_pairs(teacher, train.labels, params.pairs, device, scratch.folder, share), maxlen=0)
        share.wait()
    if not share.is_main:
        return "done"
    count = save_pairs(make_pairs(teacher, train.labels, params.pairs, device, scratch.folder), args.out)
    scratch.discard()
    return f"{count} pairs"


if __name__ == "__main__":
    run("pairs", main, inputs=INPUTS, outs=("out",), shared=True)
