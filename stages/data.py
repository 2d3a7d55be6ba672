"""Stage `data`: any source of images or prompts -> stored splits, captions, manifest."""

import argparse

import torch

from dmd.config import Params
from dmd.preparation.prepare import SKIPPED, prepare
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    made = prepare(params.data, args.out)
    said = [params.data.source, *(f"{n} {split}" for split, n in made.counts.items())]
    if made.skipped:
        said.append(f"{len(made.skipped)} skipped ({args.out / SKIPPED})")
    said += [f"{n} of {split} are also in train, pixel by pixel" for split, n in made.also_in_train.items() if n]
    return ", ".join(said)


if __name__ == "__main__":
    run("data", main, inputs=(), outs=("out",))
