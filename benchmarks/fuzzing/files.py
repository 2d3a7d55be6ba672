"""Files of data and results: pictures, archives, captions, teachers, generators, checkpoints, measures."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError

from benchmarks.fuzzing.limits import DamagedResultError
from benchmarks.fuzzing.mutations import change_file, change_folder, change_json, change_text
from benchmarks.fuzzing.parameters import ROOT
from dmd.config import DataConfig, TeacherConfig, load_params
from dmd.data.splits import load_split
from dmd.edm.checkpoints import convert
from dmd.errors import UserError
from dmd.generator.drawing import draw_grid
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.preparation.prepare import prepare
from dmd.storage.checkpoint import Scratch
from dmd.teachers.fetch import fetch_teacher
from dmd.teachers.teacher import load_teacher
from evaluation.metrics.files import read_metrics
from evaluation.metrics.schema import Metrics
from tests.helpers.sources import captioned_folder, write_mnist, write_pictures, write_shard
from tests.helpers.teachers.hub_folders import hub_folder

CPU = torch.device("cpu")
OF_STAGES = (UserError, FloatingPointError, OSError, SafetensorError)  # what stages/command.py prints as one line
SPLITS = ("train", "validation", "test")


class Data:
    """A data folder: `source` and further values of the group `data`."""

    refusals = OF_STAGES
    values: ClassVar[dict[str, Any]] = {"source": "folder"}

    def build(self, folder: Path) -> None:
        for i, name in enumerate(("cat", "dog")):
            write_pictures(folder / "in" / name, 20, first=i * 40)

    def damage(self, rng: random.Random, folder: Path) -> str:
        return change_folder(rng, folder / "in", change_file)

    def use(self, folder: Path) -> str:
        cfg = self.config(folder)
        os.environ["DMD_SCRATCH"] = str(folder / "scratch")
        prepare(cfg, folder / "out")
        parts = [load_split(folder / "out", name, with_images=cfg.source != "prompts") for name in SPLITS]
        for part in parts:
            if not 0 <= int(part.labels.min()) <= int(part.labels.max()) < max(1, len(part.conditions)):
                raise DamagedResultError(f"labels {part.labels.min()} to {part.labels.max()}")
            if part.has_images and tuple(part.images[:].shape[1:]) != (1, 8, 8):
                raise DamagedResultError(f"images of shape {part.images[:].shape}")
            if len(part.captions) not in (0, len(part.labels)) or not all(part.captions):
                raise DamagedResultError(f"{len(part.captions)} captions of {len(part.labels)} images")
        return f"{sum(len(part.labels) for part in parts)} images"

    def config(self, folder: Path) -> DataConfig:
        """The group `data`, with up to a tenth of unusable records."""
        cfg = load_params(ROOT / "params.yaml").data
        fixed = {"folder": str(folder / "in"), "validation": 5, "test": 5, "max_bad": 0.1}
        return cfg.model_copy(update={**fixed, **self.values})


class Archive(Data):
    """WebDataset shards."""

    values: ClassVar[dict[str, Any]] = {"source": "webdataset", "captions": "txt"}

    def build(self, folder: Path) -> None:
        write_shard(folder / "in/train-0.tar", 0, 24)
        write_shard(folder / "in/train-1.tar", 24, 24)


class Idx(Data):
    """MNIST's files, plain and compressed."""

    values: ClassVar[dict[str, Any]] = {"source": "mnist"}

    def build(self, folder: Path) -> None:
        write_mnist(folder / "in", ".gz")
        write_mnist(folder / "plain", "")
        for file in (folder / "plain").glob("t10k*"):
            shutil.move(file, folder / "in")
        for file in (folder / "in").glob("t10k*.gz"):
            file.unlink()


class Captions(Data):
    """A table of captions beside pictures."""

    values: ClassVar[dict[str, Any]] = {"source": "folder", "captions": "captions.csv"}
    table = "captions.csv"

    def build(self, folder: Path) -> None:
        captioned_folder(folder / "in", 60)

    def damage(self, rng: random.Random, folder: Path) -> str:
        return (change_text, change_text, change_file)[rng.randrange(3)](rng, folder / "in" / self.table)


class CaptionLines(Captions):
    """Captions as a line of JSON for each picture."""

    values: ClassVar[dict[str, Any]] = {"source": "folder", "captions": "captions.jsonl"}
    table = "captions.jsonl"

    def build(self, folder: Path) -> None:
        captions = captioned_folder(folder / "in", 60)
        (folder / "in/captions.csv").unlink()
        rows = (json.dumps({"file_name": f"{i:04d}.png", "caption": text}) for i, text in enumerate(captions))
        (folder / "in" / self.table).write_text("".join(f"{row}\n" for row in rows))


class Prompts(Captions):
    """Prompts, one on a line."""

    values: ClassVar[dict[str, Any]] = {"source": "prompts"}
    table = "prompts.txt"

    def build(self, folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "in/prompts.txt").write_text("".join(f"a picture of number {i}\n" for i in range(60)))


class TeacherFolder:
    """A teacher in a folder, of one of the hub's layouts."""

    refusals = OF_STAGES
    kind, size, channels = "ddpm", 8, 1

    def build(self, folder: Path) -> None:
        hub_folder(self.kind, folder / "in")
        captioned_folder(folder / "pictures", 60)
        cfg = load_params(ROOT / "params.yaml").data
        values = {"source": "folder", "folder": str(folder / "pictures"), "captions": "captions.csv"}
        if self.kind == "ddpm":
            values = {"source": "digits"}
        os.environ["DMD_SCRATCH"] = str(folder / "scratch")
        prepare(cfg.model_copy(update={**values, "validation": 5, "test": 5}), folder / "data")

    def damage(self, rng: random.Random, folder: Path) -> str:
        return change_folder(rng, folder / "in", _change_config_or_weights)

    def use(self, folder: Path) -> str:
        cfg: TeacherConfig = load_params(ROOT / "params.yaml").teacher
        cfg = cfg.model_copy(update={"source": "folder", "folder": str(folder / "in")})
        split = load_split(folder / "data", "train")
        fetch_teacher(cfg, split, folder / "out", CPU)
        teacher = load_teacher(folder / "out", captions=split.class_captions)
        teacher.sampler("ddim_2").images(torch.zeros(2, dtype=torch.long), torch.Generator().manual_seed(0))
        return "a teacher"


class TextTeacher(TeacherFolder):
    """A teacher of Stable Diffusion's layout."""

    kind = "sd"


def _change_config_or_weights(rng: random.Random, file: Path) -> str:
    if file.suffix == ".json" and rng.randrange(4):
        return change_json(rng, file)
    return change_file(rng, file)


class GeneratorFolder:
    """A generator, above all its generator.json."""

    refusals = OF_STAGES

    def build(self, folder: Path) -> None:
        hub_folder("ddpm", folder / "teacher")
        teacher = load_teacher(folder / "teacher")
        generator = Generator(teacher.denoiser, (999, 500), teacher.shape, (), teacher.codec)
        export_generator(generator, teacher, folder / "in")
        shutil.rmtree(folder / "teacher")

    def damage(self, rng: random.Random, folder: Path) -> str:
        if rng.randrange(4):
            return (change_json, change_json, change_file)[rng.randrange(3)](rng, folder / "in/generator.json")
        return change_folder(rng, folder / "in", _change_config_or_weights)

    def use(self, folder: Path) -> str:
        generator = load_generator(folder / "in")
        picture = draw_grid(generator, [0], 2, 0, 1, 2)
        if min(picture.size) < 8:
            raise DamagedResultError(f"a picture of {picture.size}")
        return "a picture"


class Checkpoint:
    """The scratch folder of a training: two checkpoints, their checksums, and rows."""

    refusals = OF_STAGES

    def build(self, folder: Path) -> None:
        scratch = Scratch.at(folder / "in", "train-0", "code")
        for step in range(1, 4):
            scratch.save({"step": step, "w": torch.full((50,), float(step))}, [{"turn": step, "loss": 0.5}])
        scratch.wait()

    def damage(self, rng: random.Random, folder: Path) -> str:
        return change_folder(rng, folder / "in", change_file)

    def use(self, folder: Path) -> str:
        scratch = Scratch.at(folder / "in", "train-0", "code")
        state = scratch.load()
        if state is None:
            return "no checkpoint; the run begins anew"
        step, rows = state["step"], scratch.read_rows()
        if step not in (1, 2, 3) or not torch.equal(state["w"], torch.full((50,), float(step))):
            raise DamagedResultError("another state than the one saved")
        if [row["turn"] for row in rows] != list(range(1, step + 1)) or any(row["loss"] != 0.5 for row in rows):
            raise DamagedResultError(f"rows {rows} beside a state of step {step}")
        return f"the checkpoint of step {step}"


class Pickle:
    """A checkpoint of NVlabs, which is a pickle."""

    refusals = OF_STAGES

    def build(self, folder: Path) -> None:
        (folder / "in").mkdir()
        content = {"ema": torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Conv2d(1, 2, 3)), "loss_fn": None}
        (folder / "in/net.pkl").write_bytes(pickle.dumps(content, 4))

    def damage(self, rng: random.Random, folder: Path) -> str:
        return change_file(rng, folder / "in/net.pkl")

    def use(self, folder: Path) -> str:
        convert(folder / "in/net.pkl", folder / "out")
        return "a network"


class MeasuresFile:
    """metrics.json and details.json."""

    refusals = OF_STAGES

    def build(self, folder: Path) -> None:
        for name in ("metrics.json", "details.json"):
            shutil.copy(ROOT / "reports" / name, folder / name)

    def damage(self, rng: random.Random, folder: Path) -> str:
        file = folder / rng.choice(("metrics.json", "details.json"))
        return change_file(rng, file) if rng.randrange(3) == 0 else change_json(rng, file)

    def use(self, folder: Path) -> str:
        metrics = read_metrics(folder / "metrics.json")
        if Metrics.model_validate(metrics.model_dump()) != metrics:
            raise DamagedResultError("the measures are other ones when they are read again")
        return "measures"
