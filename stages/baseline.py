"""Stage `baseline`: reference statistics, and the teacher judged at each step count, once for all ablations."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmd.config import Params
from dmd.data.splits import Split, load_split, load_splits, split_sha256
from dmd.encoding.encoding import load_encoded
from dmd.progress import Progress
from dmd.samplers.sampler import Sampler
from dmd.storage.files import new_folder, sha256
from dmd.teachers.check import check_fits
from dmd.teachers.teacher import load_teacher
from evaluation.evaluator.earlier import take_over
from evaluation.evaluator.evaluator import Judge, Panel
from evaluation.evaluator.reference import Reference, digest
from evaluation.features.store import FeatureStore
from evaluation.metrics.schema import Baseline, Judged, Scores, write_record
from evaluation.models.features import Extractor, extract
from stages.command import run

SPLITS = {"train": ["train"], "train_and_validation": ["train", "validation"]}  # of baseline.reference
SHOWN = 100  # conditions with cells in the pictures: classes are all shown, captions may be thousands


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg = params.baseline
    splits = SPLITS[cfg.reference]
    train, test = (load_split(args.data, name, with_images=False) for name in ("train", "test"))
    real = load_splits(args.data, splits, with_images=False)
    texts = load_encoded(args.encoded).texts
    teacher = load_teacher(args.teacher, device, params.guidance.scale, train.class_captions, texts)
    check_fits(teacher, train.shape, len(train.class_names))
    panel = Panel.load(args.evaluator, params.extractors, device)
    names = [*(f"ddim_{n}" for n in cfg.ddim_steps), *(f"heun_{n}" for n in cfg.heun_steps)]
    samplers = [teacher.sampler(name) for name in names]
    stand_in = None if train.has_images else max(samplers, key=lambda sampler: sampler.nfe)
    store = FeatureStore.default(panel.sha256)
    made_by = {
        part: {"split": split_sha256(args.data, *names), "device": device.type, "threads": torch.get_num_threads()}
        for part, names in {"real": splits, "test": ["test"]}.items()
    }
    reference = make_reference(params, train, real, test, panel.extractors, stand_in, store, made_by)
    judge = Judge(panel, reference, store)
    about = Judged(
        reference_sha256=made_by["real"]["split"] if stand_in is None else digest(reference.features),
        reference_images=len(reference.real_labels),
        held_out_sha256=made_by["test"]["split"],
        conditions_sha256=hash_of(reference.labels, reference.captions),
        teacher_sha256=sha256(args.teacher),
        guidance_scale=params.guidance.scale,
        neighbours=cfg.neighbours,
        made_by=stand_in and stand_in.name,
        extractors=panel.facts(reference.features),
        skipped=panel.skipped,
    )
    earlier = take_over(cfg, names, about)
    if earlier.differs:
        why = f"{cfg.measured} was measured otherwise ({earlier.differs}): the teacher is judged anew"
        print(f"baseline: {why}", file=sys.stderr, flush=True)
    source = f"{about.teacher_sha256} guidance {params.guidance.scale}"
    with new_folder(args.out) as folder:
        reference.save(folder)
        judged = dict(earlier.teachers)
        for s in samplers:
            if s.name not in judged:
                measures, found = judge.judge(s, cfg.seed, cfg.batch_size, source)
                judged[s.name] = measures, draws_of(found)
        teachers = {name: judged[name][0] for name in names}
        best = {k: min(teachers, key=lambda name: teachers[name].fd[k]) for k in panel.extractors}
        record = Baseline(
            teachers=teachers,
            real=judge.judge_real(test if stand_in is None else of_prompts(train, reference.labels)),
            best_teacher=best,
            judged=about,
            fd_draws={name: judged[name][1] for name in names},
            taken_over=[name for name in names if name in earlier.teachers],
        )
        write_record(record, folder / "baseline.json")
        pictures = {s.name: judge.pictures(s, cfg.batch_size) for s in samplers}
        save_file(pictures, folder / "pictures.safetensors")
    said = [f"best by {k}: {name}, FD {teachers[name].fd[k]:.3f}" for k, name in best.items()]
    said += [f"taken over from {cfg.measured}: {', '.join(record.taken_over)}"] if record.taken_over else []
    return "; ".join([*said, *(f"{k} left out: {why}" for k, why in panel.skipped.items())])


def hash_of(labels: Tensor, captions: list[str]) -> str:
    """Of what images are made for: labels [N], and each one's caption."""
    return hashlib.sha256(json.dumps([labels.tolist(), captions]).encode()).hexdigest()


def draws_of(scores: list[Scores]) -> dict[str, list[float]]:
    """The Frechet distances draw by draw, per extractor."""
    return {k: [s.fd[k] for s in scores] for k in scores[0].fd}


def make_reference(
    params: Params,
    train: Split,
    real: Split,
    test: Split,
    extractors: dict[str, Extractor],
    stand_in: Sampler | None = None,
    store: FeatureStore | None = None,
    made_by: dict[str, dict[str, Any]] | None = None,
) -> Reference:
    """Features of the real and of the test images; labels in the train split's proportions; the pictures' cells class
    by class.

    stand_in: the teacher's sampler that makes the images where there are prompts alone, by noise of its own each time.
    store: where the features of images that were not generated are kept, by what made_by says of them.
    """
    cfg = params.baseline
    labels = train.labels[torch.arange(cfg.samples) % len(train.labels)]

    def features(name: str, split: Split, seed: int) -> dict[str, Tensor]:
        if stand_in is not None:
            return extract(extractors, stand_in.batches(labels, cfg.batch_size, seed))

        def batches() -> Iterator[Tensor]:
            with Progress(f"{name} images, judged", len(split.labels), "images") as progress:
                for images in split.images.split(cfg.batch_size):
                    yield images
                    progress.update(len(images))

        if store is None or made_by is None:
            return extract(extractors, batches())
        return store.features(made_by[name], extractors, batches, keep_images=False)

    return Reference(
        splits=SPLITS[cfg.reference],
        features=features("real", real, cfg.seed),
        held_out=features("test", test, cfg.seed + 1),
        real_labels=real.labels if stand_in is None else labels,
        labels=labels,
        class_names=list(train.class_names),
        captions=list(train.class_captions),
        draws=cfg.draws,
        neighbours=cfg.neighbours,
        picture_labels=picture_labels(len(train.conditions), cfg.pictures_per_class),
        picture_seed=cfg.seed,
    )


def of_prompts(prompts: Split, labels: Tensor) -> Split:
    """The prompts that these labels [N] stand for, as what held-out images would be."""
    captions = [prompts.conditions[label] for label in labels.tolist()]
    return Split(prompts.images, labels, captions, (), prompts.class_captions)


def picture_labels(conditions: int, per_condition: int) -> Tensor:
    """[0, 0, ..., 1, 1, ...]: cells of each condition, or of so many that they fit, spread over all."""
    shown = min(conditions, SHOWN)
    return (torch.arange(shown) * conditions // shown).repeat_interleave(per_condition)


if __name__ == "__main__":
    run("baseline", main, inputs=("data", "teacher", "encoded", "evaluator"), outs=("out",))
