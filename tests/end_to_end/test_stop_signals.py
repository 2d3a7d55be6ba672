"""A scheduler ends a real run: quickly, with a checkpoint, and with an exit code by which it starts the run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dmd.storage.files import sha256
from flows.runtime.process import is_running
from tests.helpers.params import set_params
from tests.helpers.projects import copy_of_the_project, environment, run

pytestmark = [pytest.mark.slow, pytest.mark.long]

PATIENCE = 15.0  # seconds from the signal to the end of every process
LONG = {
    "train.generator_turns": 1500,
    "train.checkpoint_every": 10**6,
    "train.validate_every": 500,
    "train.patience": 0,
}


def to_the_group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


def to_all_processes(process: subprocess.Popen[str], number: int) -> None:
    """Signal every process, as systemd and Slurm do: they know the processes by their control group."""
    leader = psutil.Process(process.pid)
    for member in (*leader.children(recursive=True), leader):
        member.send_signal(number)


def start(project: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "flows.distill", "--target", "train"]
    return subprocess.Popen(
        argv, cwd=project, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_turns(process: subprocess.Popen[str]) -> None:
    """Wait until the progress of the training appears in the log."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "train, " in line and "turns" in line:
            return
    raise AssertionError("".join(lines))


def members(process: subprocess.Popen[str]) -> list[psutil.Process]:
    leader = psutil.Process(process.pid)
    return [leader, *leader.children(recursive=True)]


def stop(project: Path, send: Callable[[subprocess.Popen[str], int], None], number: signal.Signals) -> float:
    """Start a run, send the signal in its training, check how it ends; return the seconds that it took to end."""
    process = start(project)
    wait_for_turns(process)
    processes = members(process)
    sent = time.monotonic()
    send(process, number)
    _, err = process.communicate(timeout=180)
    while any(map(is_running, processes)) and time.monotonic() < sent + 60:
        time.sleep(0.1)
    took = time.monotonic() - sent
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"error: stopped by {number.name}; finished stages are kept"), err
    assert not any(map(is_running, processes))
    return took


def test_a_run_that_a_scheduler_ends_continues_to_the_same_bytes(tmp_path: Path) -> None:
    """Three times: SIGTERM to the process group and to all processes, and SIGUSR1, ahead of a time limit, to all."""
    project = copy_of_the_project(tmp_path / "project")
    set_params(project / "params.yaml", LONG)
    checkpoints: list[str] = []
    for send, number in (
        (to_the_group, signal.SIGTERM),
        (to_all_processes, signal.SIGTERM),
        (to_all_processes, signal.SIGUSR1),
    ):
        took = stop(project, send, number)
        print(f"{send.__name__} {number.name}: {took:.1f} s")
        assert took < PATIENCE
        last = sorted(project.glob("runs/train-*/state-*.pt"))[-1].name
        assert last not in checkpoints, "no periodic checkpoint is due, so the signal has saved it"
        checkpoints.append(last)
    process = start(project)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    inputs = ("data", "teacher", "encoded", "evaluator", "trunk", "pairs")
    words = [word for name in inputs for word in (f"--{name}", f"artifacts/{name}")]
    outs = ["--out", tmp_path / "generator", "--losses", tmp_path / "losses.csv", "--validation", tmp_path / "pictures"]
    run(project, "-m", "stages.train", *words, *map(str, outs), DMD_SCRATCH=str(tmp_path / "scratch"))
    assert sha256(project / "artifacts/generator") == sha256(tmp_path / "generator")
    assert sha256(project / "reports/losses.csv") == sha256(tmp_path / "losses.csv")
