"""Stage `encode`: latents of the training images and embeddings of the captions, if the teacher works on them."""

import argparse
from pathlib import Path

import torch

from dmd.config import NONE, Params
from dmd.data.splits import load_split
from dmd.encoding.encode import encode
from dmd.storage.checkpoint import Scratch, code_hash
from dmd.training.shared_work import SharedWork
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    split = load_split(args.data, "train", with_images=False)
    settings = {"encode": params.encode.model_dump(), "runtime": params.runtime.bits(), "code": code_hash()}
    prompts = {} if params.encode.prompts == NONE else {"prompts": Path(params.encode.prompts)}
    scratch = Scratch("encode", settings, {"data": args.data, "teacher": args.teacher, **prompts})
    share = SharedWork.join(device)
    counts = encode(params.encode, split, args.teacher, scratch.folder, device, args.out, share)
    if not share.is_main:
        return "done"
    scratch.discard()
    return ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "nothing: the teacher works on pixels and labels"


if __name__ == "__main__":
    run("encode", main, inputs=("data", "teacher"), outs=("out",), shared=True)
