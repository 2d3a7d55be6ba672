"""`python -m benchmarks.flow_cost`: seconds that the Prefect flow adds to plain `dvc repro`.

Two clones of the last commit run the same stages on the preset `quick`, one clone after the other, while the flow's
servers run; each time includes the start of the process. Then both run in turns with nothing to do. It writes
records/flow_cost.json.
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

from benchmarks.interleaved import medians, time_in_turns
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from flows.pipeline.changes import change_file
from flows.pipeline.presets import load_preset
from tests.helpers.servers import free_port

PYTHON = sys.executable
REPRO = [PYTHON, "-m", "dvc", "repro", "--quiet"]
FLOW = [PYTHON, "-m", "flows.distill", "--target", "evaluate"]  # the whole graph, without publishing


def main() -> None:
    """Run both clones and print a table of their times."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow_cost", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="runs with nothing to do; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/flow_cost.json"))
    args = parser.parse_args()
    root = main_worktree(Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        plain, flow = (clone(root, Path(folder) / name) for name in ("plain", "flow"))
        ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
        run_seconds(flow, [PYTHON, "-m", "flows.services", "up"], **ports)
        try:
            rows = {"dvc repro": run_seconds(plain, REPRO), "flow": run_seconds(flow, FLOW, **ports)}
            idle = {
                "dvc repro, nothing to do": partial(run_seconds, plain, REPRO),
                "flow, nothing to do": partial(run_seconds, flow, FLOW, **ports),
            }
            rows |= medians(time_in_turns(idle, args.repeats, time.perf_counter))
        finally:
            run_seconds(flow, [PYTHON, "-m", "flows.services", "down"], **ports)
    write_text(args.out, json.dumps({name: round(seconds, 2) for name, seconds in rows.items()}, indent=2) + "\n")
    for name, seconds in rows.items():
        print(f"{name:26} {seconds:7.1f} s")
    print(f"the flow adds {rows['flow'] - rows['dvc repro']:+.1f} s (negative: it runs two stages at once)")


def clone(root: Path, to: Path) -> Path:
    """Clone the last commit, with the parameters of the preset `quick` and a DVC cache of its own."""
    subprocess.run(["git", "clone", "-q", str(root), str(to)], check=True)
    change_file(load_preset(to, "quick").changes, to / "params.yaml")
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run(["git", *identity, "commit", "-qam", "quick"], cwd=to, check=True)
    return to


def run_seconds(cwd: Path, command: list[str], **env: str) -> float:
    """Run a command and return its duration in seconds. Exits with the command's output if it fails."""
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.perf_counter()
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path, **env}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
