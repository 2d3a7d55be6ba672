"""Prepare a data set with the pipeline's own stages, and train the runs; every validated generator is kept."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from ruamel.yaml import YAML

from benchmarks.selection.settings import Changes, DataSet
from dmd.config import Params, load_params
from dmd.data.splits import Split, load_split
from dmd.device import choose_device
from dmd.distillation.methods import Method
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.run import distill
from dmd.distillation.selection import Validation
from dmd.distillation.setup import new_method, new_networks
from dmd.encoding.encoded import load_encoded
from dmd.generator.generator import Generator
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import write_text
from dmd.storage.scratch import SCRATCH
from dmd.teachers.pairs import load_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from flows.pipeline.changes import change_file

ROOT = Path(__file__).resolve().parents[2]
OUTS = {  # output of each stage that a run needs
    "data": "data", "teacher": "teacher", "encode": "encoded", "evaluator": "evaluator", "trunk": "trunk",
    "pairs": "pairs", "train": "generator",
}  # fmt: skip


def prepare(data_set: DataSet, work: Path) -> None:
    """Run the stages up to the warm start in the folder `work`; a stage whose output exists is skipped."""
    write_params(work / "params.yaml", data_set.prepare)
    (work / "none").mkdir(exist_ok=True)
    commands = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), SCRATCH: str(work / "scratch")}
    for stage, out in OUTS.items():
        if not (work / "artifacts" / out).exists():
            _, *words = commands[stage]["cmd"].split()
            subprocess.run([sys.executable, *words], cwd=work, env=env, check=True)


def write_params(file: Path, changes: Changes) -> None:
    """Write the project's params.yaml with changes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((ROOT / "params.yaml").read_text())
    change_file(changes, file)


@dataclass(frozen=True)
class Inputs:
    """Outputs of the stages that a run reads."""

    folder: Path  # artifacts/
    split: Split
    teacher: Teacher

    @classmethod
    def load(cls, work: Path) -> "Inputs":
        """Read the folder that `prepare` wrote."""
        folder = work / "artifacts"
        split = load_split(folder / "data", "train")
        texts = load_encoded(folder / "encoded").texts
        device = torch.device("cpu")
        return cls(folder, split, load_teacher(folder / "teacher", device, 1.0, split.class_captions, texts))


def train_run(data_set: DataSet, changes: Changes, work: Path, out: Path) -> None:
    """Train one run from the generator of the warm start; `out` gets the weights of every validated generator.

    A run that was interrupted resumes, since its checkpoints are kept in `work`.
    """
    start = {"train.warm_start.turns": 0, "method.init_from": str(work / "artifacts" / "generator")}
    write_params(out / "params.yaml", {**data_set.prepare, **start, **data_set.train, **changes})
    params, inputs = load_params(out / "params.yaml"), Inputs.load(work)
    os.environ[SCRATCH] = str(work / "scratch")

    def keep(generator: Generator, turn: int) -> Validation:
        torch.save(generator.denoiser.state_dict(), out / f"turn_{turn:04d}.pt")
        return Validation([0.0, 0.0], {})

    threads = params.runtime.threads_of(params.train)
    workers = Workers.start(params.train, choose_device(params.runtime.device), threads)
    method = _new_method(params, inputs)
    nets = new_networks(method, inputs.teacher, params.train, params.method.init_from, workers.device)
    scratch = Scratch(f"selection-{out.name}", params.model_dump(), {})
    labels, names = inputs.split.labels, inputs.split.conditions
    distill(method, nets, params.train, inputs.teacher, labels, names, scratch, keep, workers)
    scratch.discard()
    write_text(out / "done", "")


def load_kept(params: Params, inputs: Inputs, file: Path) -> Generator:
    """The generator whose weights `train_run` kept."""
    teacher = inputs.teacher
    denoiser = teacher.denoiser.copy()
    denoiser.load_state_dict(torch.load(file, weights_only=True))
    times = _new_method(params, inputs).generator_times
    return Generator(denoiser, times, teacher.shape, inputs.split.conditions, teacher.codec)


def _new_method(params: Params, inputs: Inputs) -> Method:
    folder = inputs.folder
    encoded, pairs = load_encoded(folder / "encoded"), load_pairs(folder / "pairs")
    return new_method(params, inputs.teacher, inputs.split, encoded, pairs, folder / "trunk")
