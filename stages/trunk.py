"""Stage `trunk`: a small network for discriminators, trained on half of the train split, or an empty folder."""

import argparse
import json

import torch

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.features.own import save_own
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import new_folder, write_text
from dmd.trunk_training.train import train_own
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg = params.trunk
    with new_folder(args.out) as folder:
        write_text(folder / "origin.json", json.dumps({"source": cfg.source}) + "\n")
        if cfg.source == "none":
            return "none: no discriminator reads it"
        scratch = Scratch("trunk", {**cfg.model_dump(), **params.runtime.bits()}, {"data": args.data})
        net, accuracy = train_own(cfg, load_split(args.data, "train"), device, scratch)
        save_own(net, folder)
    scratch.discard()
    return f"trained, {100 * accuracy:.1f} % of the rotations of the other half right"


if __name__ == "__main__":
    run("trunk", main, inputs=("data",), outs=("out",))
