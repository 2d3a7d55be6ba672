"""Stage `train`: distillation -> the generator as a diffusers folder, losses and validation images over time."""

import argparse

import pandas as pd
import torch

from dmd.codecs.latents import vae_batch_size
from dmd.config import Params
from dmd.data.splits import load_split
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.run import distill
from dmd.distillation.setup import files_in_params, new_method, new_networks, validation_set
from dmd.encoding.encoded import load_encoded
from dmd.generator.export import export_generator
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import copy_files, write_text
from dmd.teachers.check import check_fits
from dmd.teachers.pairs import load_pairs
from dmd.teachers.teacher import load_teacher
from evaluation.models.extractors import load_extractors
from evaluation.validation.validator import Validator
from stages.command import run

INPUTS = ("data", "teacher", "encoded", "evaluator", "pairs")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg = params.train
    workers = Workers.start(cfg, device, params.runtime.threads)
    split, validation = (load_split(args.data, name, with_images=False) for name in ("train", "validation"))
    encoded = load_encoded(args.encoded)
    teacher = load_teacher(args.teacher, workers.device, params.guidance.scale, split.class_captions, encoded.texts)
    check_fits(teacher, split.shape, len(split.class_names))
    pairs = load_pairs(args.pairs).to(workers.device)
    method = new_method(params, teacher, split, encoded, pairs)
    nets = new_networks(params, method, teacher, workers.device)
    groups = {"guidance": params.guidance, "method": params.method, "train": cfg, "runtime": params.runtime}
    inputs = {name: getattr(args, name) for name in INPUTS} | files_in_params(params)
    scratch = Scratch("train", {name: group.model_dump() for name, group in groups.items()}, inputs)
    extractor = load_extractors(args.evaluator, workers.device)[1]["classifier" if split.class_names else "evaluator"]
    real, labels = validation_set(split, validation, pairs, teacher)
    batch_size = vae_batch_size(*split.shape[1:])  # evaluate.batch_size would make it a parameter of this stage
    validator = Validator(extractor, real, labels, len(split.conditions), cfg.seed, scratch.folder, batch_size)
    done = distill(method, nets, cfg, teacher, split.labels, split.conditions, scratch, validator, workers)
    if not workers.is_main:
        return "done"
    copy_files(sorted(scratch.folder.glob("turn_*.png")), args.validation)
    write_text(args.losses, pd.DataFrame(done.rows).to_csv(index=False))
    export_generator(done.generator, teacher, args.out, cfg.lora_adapter)
    scratch.discard()
    score = next(row["validation_fd"] for row in done.rows if row["turn"] == done.turn)
    return f"{len(done.rows)} generator turns; kept the one after {done.turn}, validation FD {score:.3f}"


if __name__ == "__main__":
    run("train", main, inputs=INPUTS, outs=("out", "losses", "validation"))
