"""Stage `train`: distillation -> the generator as a diffusers folder, with losses and validation images over time."""

import argparse

import torch

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.records import learned_from, write_records
from dmd.distillation.run import distill
from dmd.distillation.setup import new_method, new_networks, new_scratch, validation_set
from dmd.encoding.encoded import load_encoded
from dmd.generator.export import describe_training, export_generator
from dmd.launch import start_processes
from dmd.storage.files import write_text
from dmd.teachers.pairs import load_pairs
from dmd.teachers.teacher import load_teacher
from evaluation.validation.validator import new_validator
from stages.command import run

INPUTS = ("data", "teacher", "encoded", "evaluator", "trunk", "pairs")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg, scale, details = params.train, params.guidance.scale, params.guidance.details
    start_processes(cfg.launcher, cfg.processes, cfg.launcher_options, "stages.train")
    workers = Workers.start(cfg, device, params.runtime.threads_of(cfg))
    split, validation = (load_split(args.data, name, with_images=False) for name in ("train", "validation"))
    encoded = load_encoded(args.encoded, split.class_captions)
    teacher = load_teacher(args.teacher, workers.device, scale, *encoded.stored, *details, cfg.teacher_precision)
    pairs, labels = load_pairs(args.pairs).to(workers.device), encoded.draw_from(split.labels)
    method = new_method(params, teacher, split, encoded, pairs, args.trunk)
    nets = new_networks(method, teacher, cfg, params.method.init_from, workers.device)
    scratch = new_scratch(params, {name: getattr(args, name) for name in INPUTS})
    words, facts = (describe_training(params.method, cfg), encoded.own_prompts), learned_from(method, split)
    real = *validation_set(split, validation, pairs, teacher), cfg.validation, cfg.seed  # images and labels first
    validator = new_validator(args.evaluator, split, *real, scratch.folder, workers.device, workers.shared_work)
    result = distill(method, nets, cfg, teacher, labels, split.conditions, scratch, validator, workers)
    if not workers.is_main:
        return "done"
    write_records(result.rows, result.events, method.phases(cfg), facts, scratch.folder, args.validation)
    write_text(args.losses, result.losses_csv())
    export_generator(result.generator, teacher, args.out, cfg.lora_adapter, *words, facts)
    scratch.discard()
    return result.summary()


if __name__ == "__main__":
    run("train", main, inputs=INPUTS, outs=("out", "losses", "validation"))
