"""Stage `data`: any source of images or prompts -> stored splits, captions and a manifest."""

import argparse

import torch

from dmd.config import Params, fewest_images
from dmd.preparation.prepare import SKIPPED, prepare
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    # The smallest numbers only refuse early what later stages would refuse, so they are no parameters of this stage.
    result = prepare(params.data, args.out, fewest_images(params))
    facts = [params.data.source, *(f"{n} {split}" for split, n in result.counts.items())]
    if result.skipped:
        facts.append(f"{len(result.skipped)} skipped ({args.out / SKIPPED})")
    if result.passed_by:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(result.passed_by.items()))
        facts.append(f"{sum(result.passed_by.values())} passed by ({kinds})")
    facts += [f"{n} of {split} are also in train, pixel by pixel" for split, n in result.also_in_train.items() if n]
    return ", ".join(facts)


if __name__ == "__main__":
    run("data", main, inputs=(), outs=("out",))
