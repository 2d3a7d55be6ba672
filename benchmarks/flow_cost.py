"""`python -m benchmarks.flow_cost`: seconds that the Prefect flow adds to plain `dvc repro`.

Two clones of the last commit run the same stages on the preset `quick`, one clone after the other, while the flow's
servers run; each time includes the start of the process. Then both run once more with nothing to do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dmd.storage.worktree import main_worktree
from flows.pipeline.changes import change_file
from flows.pipeline.presets import load_preset
from tests.helpers.servers import free_port

PYTHON = sys.executable
REPRO = [PYTHON, "-m", "dvc", "repro", "--quiet"]
FLOW = [PYTHON, "-m", "flows.distill", "--target", "evaluate"]  # the whole graph, without publishing


def main() -> None:
    """Run both clones and print a table of their times."""
    argparse.ArgumentParser(prog="python -m benchmarks.flow_cost", description=__doc__).parse_args()
    root = main_worktree(Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        plain, flow = (clone(root, Path(folder) / name) for name in ("plain", "flow"))
        ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
        run_seconds(flow, [PYTHON, "-m", "flows.services", "up"], **ports)
        try:
            rows = {
                "dvc repro": run_seconds(plain, REPRO),
                "flow": run_seconds(flow, FLOW, **ports),
                "dvc repro, nothing to do": run_seconds(plain, REPRO),
                "flow, nothing to do": run_seconds(flow, FLOW, **ports),
            }
        finally:
            run_seconds(flow, [PYTHON, "-m", "flows.services", "down"], **ports)
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
