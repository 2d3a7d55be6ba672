"""Stage `pairs`: deterministic teacher pairs (z, x) for the regression loss; count 0 writes an empty store."""

import argparse

import torch

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.encoding.encoded import load_encoded
from dmd.storage.checkpoint import Scratch, code_hash
from dmd.teachers.check import check_fits
from dmd.teachers.pairs import make_pairs, save_pairs
from dmd.teachers.teacher import load_teacher
from stages.command import run

INPUTS = ("data", "teacher", "encoded")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    train = load_split(args.data, "train", with_images=False)  # only its labels or prompts are used
    texts = load_encoded(args.encoded).texts
    teacher = load_teacher(args.teacher, device, params.guidance.scale, train.class_captions, texts)
    check_fits(teacher, train.shape, len(train.class_names))
    settings = {g: getattr(params, g).model_dump() for g in ("guidance", "pairs", "runtime")} | {"code": code_hash()}
    scratch = Scratch("pairs", settings, {name: getattr(args, name) for name in INPUTS})
    save_pairs(make_pairs(teacher, train.labels, params.pairs, device, scratch.folder), args.out)
    scratch.discard()
    return f"{params.pairs.count} pairs"


if __name__ == "__main__":
    run("pairs", main, inputs=INPUTS, outs=("out",))
