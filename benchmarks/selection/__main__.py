"""`python -m benchmarks.selection`: does the measure that selects a generator order generators as the final figures do?

Trains the runs of benchmarks/selection/settings.py, measures every kept generator and writes the comparison. Run it
again after an interruption: finished stages, runs and generators are kept in the folder --work.
"""

import argparse
import json
from pathlib import Path

from benchmarks.selection.comparison import Kept, compare
from benchmarks.selection.measuring import Measuring
from benchmarks.selection.settings import RUNS, DataSet, data_sets
from benchmarks.selection.training import ROOT, prepare, train_run
from dmd.config import load_params
from dmd.storage.files import write_text
from stages.command import prepare_torch


def main() -> None:
    """Train, measure and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("--work", type=Path, required=True, help="folder outside the project for unfinished work")
    parser.add_argument("--out", type=Path, default=Path("records/selection.json"))
    args = parser.parse_args()
    prepare_torch(load_params(ROOT / "params.yaml").runtime)
    record = {}
    for name, data_set in data_sets(args.fashion_mnist.resolve(), ROOT).items():
        work = args.work.resolve() / name
        runs = [run_and_measure(data_set, run, work) for run in RUNS]
        record[name] = {
            "runs": len(runs),
            "generators": sum(map(len, runs)),
            "final images": data_set.final_images,
            "reference images": data_set.reference_images,
            **compare(runs, data_set.former_tolerance),
            "figures": [vars(kept) for run in runs for kept in run],
        }
        write_text(args.out, json.dumps(record, indent=1) + "\n")
        print(json.dumps({k: v for k, v in record[name].items() if k != "figures"}, indent=1), flush=True)


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
    main()
