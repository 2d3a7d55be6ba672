"""`python -m benchmarks.ten_million`: a preset's recipe at ten million generator images on a GPU, in ten minutes.

It reads the outputs of the stages `data`, `teacher` and `trunk`, makes the teacher's pairs itself, and imports nothing
of the project but `dmd`: a machine without DVC, Prefect and MLflow can run it. Turns and batch size follow from the
number of images; the learning rates are those of the preset times --lr-factor. No turn starts after --minutes.

The folder --out gets what stage `train` writes: generator/, losses.csv and training/, which stage `evaluate` reads on
any machine. run.json has the numbers of turns and images, and the time. Nothing is validated: the last average of the
weights is exported.
"""

import argparse
import csv
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dmd.config import Params, load_params
from dmd.data.splits import load_split
from dmd.distillation.records import count_images, write_records
from dmd.generator.export import describe_training, export_generator
from dmd.library import Distillation
from dmd.storage.files import write_text
from dmd.teachers.teacher import load_teacher
from dmd.yaml_files import load_yaml

ROOT = Path(__file__).resolve().parents[1]
HALF_LIFE = 500_000  # images, of the generator's average (GDD)
PAIRS_AT_ONCE = 1000
SHOWN_EVERY = 200  # turns
SHOWN = ("generator_total", "generator_share", "generator_x_std", "discriminator_gap")  # beginnings of columns
WARM_START = "warm_start"  # the phase on pairs

Row = dict[str, Any]


def main() -> None:
    """Train until all images are made or the time is over, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ten_million", description=__doc__)
    parser.add_argument("--preset", default="fashion_mnist_trunks")
    parser.add_argument("--images", type=int, default=10_000_000, help="images of the generator after the warm start")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument(
        "--lr-factor", type=float, default=2.0, help="2: GDD has the preset's rate at a quarter of this batch; the root"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="no turn starts later than this")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    for name in ("data", "teacher", "trunk"):
        parser.add_argument(f"--{name}", type=Path, default=Path("artifacts") / name, help=f"output of stage {name}")
    parser.add_argument("--out", type=Path, default=Path("records/fashion_mnist_gpu"))
    args = parser.parse_args()
    begin = time.monotonic()
    params = read_params(args.preset, args.images, args.batch_size, args.lr_factor)
    teacher = load_teacher(args.teacher, torch.device(args.device), params.guidance.scale)
    training = Distillation(params, teacher, load_split(args.data, "train"), trunk=args.trunk)
    rows = follow(training, begin + 60 * args.minutes)
    write_result(training, rows, args.out)
    result = {"preset": args.preset, "device": describe(args.device), "torch": torch.__version__}
    result |= {"batch_size": args.batch_size, "lr_factor": args.lr_factor, **summarise(training, rows)}
    result["minutes"] = round((time.monotonic() - begin) / 60, 2)
    write_text(args.out / "run.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def read_params(preset: str, images: int, batch_size: int, lr_factor: float) -> Params:
    """The parameters of a preset, with as many turns of a batch as give this number of images."""
    changes = load_yaml(ROOT / "experiments/presets" / f"{preset}.yaml")["changes"]
    train = load_params(ROOT / "params.yaml", changes).train
    rates = {f"train.{key}": getattr(train, key) * lr_factor for key in ("lr_generator", "lr_discriminator")}
    sizes = {
        "train.generator_turns": images // batch_size,
        "train.generator_batch_size": batch_size,
        "train.batch_size": batch_size,
        "train.ema_half_lives": [HALF_LIFE],
        "pairs.batch_size": PAIRS_AT_ONCE,
    }
    return load_params(ROOT / "params.yaml", changes | rates | sizes)


def follow(training: Distillation, end: float) -> list[Row]:
    """Train until the last turn or the time `end`, and return the rows of the log with the clock at each turn."""
    rows: list[Row] = []
    for row in training:
        rows.append(row | {"clock": time.monotonic()})
        if row["turn"] % SHOWN_EVERY == 0:
            numbers = {key: round(row[key], 4) for key in row if key.startswith(SHOWN)}
            print(f"turn {row['turn']}, {row['phase']}: {numbers}", flush=True)
        if time.monotonic() > end:
            break
    return rows


def write_result(training: Distillation, rows: list[Row], out: Path) -> None:
    """Write the generator, the log, and the records that stage `evaluate` reads."""
    params, method = training.params, training.method
    done = params.train.model_copy(update={"generator_turns": len(without_warm_start(rows))})
    words = describe_training(params.method, done)
    export_generator(
        training.generator(HALF_LIFE), training.teacher, out / "generator", training=words, learned_from=training.facts
    )
    write_text(out / "losses.csv", to_csv(rows))
    with tempfile.TemporaryDirectory() as scratch:
        write_records(rows, (), method.phases(params.train), training.facts, Path(scratch), out / "training")


def to_csv(rows: list[Row]) -> str:
    """The rows as a CSV file whose columns are those of all rows, without the clock."""
    rows = [{k: v for k, v in row.items() if k != "clock"} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summarise(training: Distillation, rows: list[Row]) -> Row:
    """Turns and images of each network, and the speed and the completeness of the phases after the warm start."""
    cfg = training.params.train
    phases = training.method.phases(cfg)
    after = without_warm_start(rows)
    clock = [row["clock"] for row in after]
    done = cfg.generator_batch_size * (len(after) - 1)  # between the first and the last time
    return {
        "is_complete": len(rows) == sum(phase.generator_turns for phase in phases),
        "turns": len(rows),
        "images": count_images(phases, rows[-1]["step"]),
        "generator_images_per_second": round(done / (clock[-1] - clock[0]), 1) if done > 0 else None,
    }


def without_warm_start(rows: list[Row]) -> list[Row]:
    """The rows of the phases that follow the warm start."""
    return [row for row in rows if row["phase"] != WARM_START]


def describe(device: str) -> str:
    """The name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


if __name__ == "__main__":
    main()
