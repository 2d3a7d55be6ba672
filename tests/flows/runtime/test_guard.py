"""The guard ends the descendants of a killed process, and no other process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.helpers.projects import ROOT
from tests.helpers.servers import eventually

# Start a command in a session of its own, like a stage, and one in the parent's session; each starts a child.
PARENT = """
import subprocess, sys, time
from flows.runtime import guard
guard.start()
guard.start()
shell = "sleep 300 & echo $!; wait"
for session in (True, False):
    child = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True, start_new_session=session)
    print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(float(sys.argv[1]))
"""


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def guards(parent: int) -> list[psutil.Process]:
    arguments = ["flows.runtime.guard", str(parent)]
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-2:] == arguments]


def start(seconds: float) -> tuple["subprocess.Popen[str]", list[int]]:
    """Start the parent; return it with the ids of its four descendants, once its guard knows them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", PARENT, str(seconds)]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert parent.stdout is not None
    pids = [int(word) for _ in range(2) for word in parent.stdout.readline().split()]
    assert eventually(lambda: guards(parent.pid), patience=20)
    time.sleep(2)
    assert len(guards(parent.pid)) == 1 and all(is_alive(pid) for pid in pids)
    return parent, pids


@pytest.mark.slow
def test_the_descendants_of_a_killed_process_are_ended() -> None:
    bystander = subprocess.Popen(["sleep", "300"])
    parent, pids = start(300)
    try:
        os.killpg(parent.pid, signal.SIGKILL)  # the guard survives, as it has a session of its own
        parent.wait(10)
        assert any(is_alive(pid) for pid in pids)
        # The next process waits until no descendant of the killed process is left.
        argv = [sys.executable, "-c", "from flows.runtime import guard; guard.start()"]
        subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=90)
        assert not any(is_alive(pid) for pid in pids) and not guards(parent.pid)
        assert is_alive(bystander.pid)
    finally:
        bystander.kill()
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_guard_ends_with_its_process() -> None:
    parent, pids = start(6)
    try:
        assert parent.wait(30) == 0
        assert eventually(lambda: not guards(parent.pid), patience=40)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
