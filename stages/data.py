"""Stage `data`: a data set by name -> images, labels, captions, manifest."""

import argparse

import torch

from dmd.config import Params
from dmd.data import prepare
from stages.common import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    counts = prepare(params.data, args.out)
    return f"{params.data.source}, " + ", ".join(f"{n} {split}" for split, n in counts.items())


if __name__ == "__main__":
    run("data", main, inputs=(), outs=("out",))
