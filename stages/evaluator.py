"""Stage `evaluator`: the CLIP model that evaluates images, and a classifier whose features are independent of it."""

import argparse

import torch

from dmd.config import Params
from dmd.data.splits import SPLITS, load_split
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import new_folder
from evaluation.models.build import build_evaluator
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    needs_images = params.evaluator.source == "train"
    splits = {name: load_split(args.data, name, with_images=needs_images) for name in SPLITS}
    scratch = Scratch("evaluator", {**params.evaluator.model_dump(), **params.runtime.bits()}, {"data": args.data})
    with new_folder(args.out) as folder:
        summary = build_evaluator(params.evaluator, splits, folder, device, scratch)
    scratch.discard()
    return summary


if __name__ == "__main__":
    run("evaluator", main, inputs=("data",), outs=("out",))
