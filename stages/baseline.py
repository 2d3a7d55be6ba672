"""Stage `baseline`: reference statistics, and the teacher judged at each step count, once for all ablations."""

import argparse

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmd.config import Params
from dmd.data import Split, load_split
from dmd.files import new_folder
from dmd.teachers import check_fits, load_teacher
from evaluation.features import Extractor, extract, load_extractors
from evaluation.judge import Judge
from evaluation.reference import Reference
from evaluation.schema import Baseline, write_record
from stages.common import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg = params.baseline
    train, test = load_split(args.data, "train"), load_split(args.data, "test")
    teacher = load_teacher(args.teacher, device, params.guidance.scale, train.class_captions)
    check_fits(teacher, train.shape, len(train.class_names))
    clip, extractors = load_extractors(args.evaluator, device)
    judge = Judge(clip, extractors, make_reference(params, train, extractors))
    samplers = [teacher.sampler(steps) for steps in cfg.ddim_steps]
    with new_folder(args.out) as folder:
        judge.reference.save(folder)
        teachers = {s.name: judge.judge(s, cfg.seed, cfg.batch_size) for s in samplers}
        best = {k: min(teachers, key=lambda name: teachers[name].fd[k]) for k in extractors}
        real = judge.judge_real(test)
        write_record(Baseline(teachers=teachers, real=real, best_teacher=best), folder / "baseline.json")
        save_file({s.name: judge.pictures(s) for s in samplers}, folder / "pictures.safetensors")
    return "; ".join(f"best by {k}: {name}, FD {teachers[name].fd[k]:.3f}" for k, name in best.items())


def make_reference(params: Params, train: Split, extractors: dict[str, Extractor]) -> Reference:
    """Features of the train split; labels in its own proportions; the pictures' cells class by class."""
    cfg, classes = params.baseline, len(train.class_names)
    return Reference(
        features=extract(extractors, train.images.split(cfg.batch_size)),
        labels=train.labels[torch.arange(cfg.samples) % len(train.labels)],
        captions=list(train.class_captions),
        draws=cfg.draws,
        neighbours=cfg.neighbours,
        picture_labels=picture_labels(classes, cfg.pictures_per_class),
        picture_seed=cfg.seed,
    )


def picture_labels(classes: int, per_class: int) -> Tensor:
    """[0, 0, ..., 1, 1, ...]: per_class cells of each class."""
    return torch.arange(classes).repeat_interleave(per_class)


if __name__ == "__main__":
    run("baseline", main, inputs=("data", "teacher", "evaluator"), outs=("out",))
