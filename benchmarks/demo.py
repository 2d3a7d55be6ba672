"""`python -m benchmarks.demo`: `make demo` without installation, here and at commit ca1a315, in turns.

Each run is a fresh clone of a commit with an empty cache, whose `train.seed` is 0, 1, 2, 0, ... in turn; both trees run
with this environment. The file has the seconds of each run, those of its stages, and the ratio of the student's
Fréchet distance to that of the teacher's best sampler, so that speed and quality come from the same runs. A run takes
6 to 20 minutes: continue an interrupted measurement by the same command. It writes records/demo.json.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.turns import EARLIER
from benchmarks.workers import ROOT
from dmd.storage.files import write_text
from flows.pipeline.changes import change_file

SEEDS = (0, 1, 2)
STAGE = re.compile(r"'(?P<stage>[a-z]+)'.*\bran in (?P<seconds>\d+) s")
DROPPED = ("PREFECT_", "MLFLOW_", "DMD_", "ONESTEP_")  # settings of other servers and folders


def main() -> None:
    """Run both trees in turns until each has its repeats."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each tree; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/demo.json"))
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    trees = {"here": "HEAD", "earlier": EARLIER}
    for number in range(len(result["runs"]), args.repeats * len(trees)):
        tree = list(trees)[number % len(trees)]
        seed = SEEDS[number // len(trees) % len(SEEDS)]
        run = {"tree": tree, "seed": seed, **run_demo(trees[tree], seed)}
        result["runs"].append(run)
        write_text(args.out, json.dumps({**summarize(result["runs"]), "runs": result["runs"]}, indent=1) + "\n")
        print(json.dumps(run), flush=True)


def run_demo(commit: str, seed: int) -> dict[str, Any]:
    """Clone a commit, run its demo, and return its seconds and figures. Exits with the output if it fails."""
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
        subprocess.run(["git", "checkout", "-q", _resolve(commit)], cwd=project, check=True)
        change_file({"train.seed": seed}, project / "params.yaml")
        (project / "dvc.lock").unlink(missing_ok=True)
        subprocess.run(["git", *identity, "commit", "-qam", "seed"], cwd=project, check=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
        env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        start = time.perf_counter()
        command = [sys.executable, "-m", "flows.distill"]
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"the demo of {commit} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        ratio = json.loads((project / "reports/metrics.json").read_text())["ratio"]["fd"]
    stages = {m["stage"]: int(m["seconds"]) for m in STAGE.finditer(done.stdout + done.stderr)}
    return {"seconds": round(seconds, 1), "stages": stages, "fd_ratio": ratio}


def _resolve(commit: str) -> str:
    """The full hash of a commit of this repository."""
    done = subprocess.run(["git", "rev-parse", commit], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median seconds and mean distances of each tree, and the ratio of the seconds, this tree over the earlier one."""
    own = {tree: [run for run in runs if run["tree"] == tree] for tree in ("here", "earlier")}
    seconds = {tree: statistics.median(run["seconds"] for run in rows) for tree, rows in own.items() if rows}
    distances = {
        tree: {k: round(statistics.fmean(run["fd_ratio"][k] for run in rows), 3) for k in rows[0]["fd_ratio"]}
        for tree, rows in own.items()
        if rows
    }
    ratio = round(seconds["here"] / seconds["earlier"], 3) if len(seconds) > 1 else None
    return {"commit": EARLIER, "seconds": seconds, "ratio": ratio, "fd_ratio": distances}


if __name__ == "__main__":
    main()
