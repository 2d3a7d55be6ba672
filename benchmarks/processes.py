"""`python -m benchmarks.processes`: stages `baseline` and `evaluate` with one and with two processes, in turns.

Each run is a process of its own on the workspace's artifacts (run `dvc repro` first), with nothing kept from another
run. The seconds are those of the clock, imports included, so the machine must be idle. It writes
records/processes.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.interleaved import medians, ratios_to, time_in_turns
from benchmarks.workers import ROOT
from dmd.storage.checkpoint import SCRATCH
from dmd.storage.files import write_text
from flows.pipeline.changes import change_file

INPUTS = {
    "data": "artifacts/data",
    "teacher": "artifacts/teacher",
    "encoded": "artifacts/encoded",
    "evaluator": "artifacts/evaluator",
    "baseline": "artifacts/baseline",
    "generator": "artifacts/generator",
    "losses": "reports/losses.csv",
    "validation": "artifacts/training",
}
STAGES = {  # inputs and outputs of each stage
    "baseline": (list(INPUTS)[:4], ["out"]),
    "evaluate": (list(INPUTS), ["metrics", "details", "timing", "quality", "plots", "samples", "report"]),
}
ENDINGS = {"metrics": ".json", "details": ".json", "timing": ".json", "quality": ".csv", "samples": ".png"}
PROCESSES = (1, 2)


def main() -> None:
    """Measure stage by stage and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--repeats", type=int, default=7, help="runs of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/processes.json"))
    args = parser.parse_args()
    result: dict[str, object] = {"cores": len(os.sched_getaffinity(0)), "repeats": args.repeats}
    for stage in args.stages:
        runs = {str(n): partial(run_stage, stage, n) for n in PROCESSES}
        seconds = time_in_turns(runs, args.repeats, time.perf_counter)
        result[stage] = {"seconds": medians(seconds, 2), "ratio": ratios_to("1", seconds)["2"]}
        write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def run_stage(stage: str, processes: int) -> None:
    """Run a stage into a temporary folder. Exits with its output if it fails."""
    inputs, outs = STAGES[stage]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = folder / "params.yaml"
        params.write_bytes((ROOT / "params.yaml").read_bytes())
        change_file({"runtime.processes": processes}, params)
        words = [f"--params={params}", *(f"--{key}={INPUTS[key]}" for key in inputs)]
        words += [f"--{key}={folder / (key + ENDINGS.get(key, ''))}" for key in outs]
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}", *words],
            cwd=ROOT,
            env={**os.environ, SCRATCH: str(folder / "scratch")},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"stage {stage} with {processes} processes failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
