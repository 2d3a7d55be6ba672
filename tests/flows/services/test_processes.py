"""The processes of a service are known and ended as a group, also if the first of them was killed."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.services.processes import end, find_members, find_process
from flows.services.servers import down

GROUP = """
import subprocess, sys, time
child = "import subprocess, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(300)
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[psutil.Process]:
    """The first process of a service with a child and a grandchild, recorded in runs/services."""
    process = subprocess.Popen([sys.executable, "-c", GROUP], start_new_session=True)
    leader = psutil.Process(process.pid)
    folder = tmp_path / "runs/services"
    folder.mkdir(parents=True)
    record = {"pid": process.pid, "started": leader.create_time(), "url": ""}
    (folder / "mlflow.json").write_text(json.dumps(record))
    deadline = time.monotonic() + 30
    while len(leader.children(recursive=True)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    yield leader
    for member in find_members(folder, "mlflow"):
        member.kill()
    process.wait()


@pytest.mark.parametrize("is_killed", [False, True])
def test_down_ends_the_whole_group(
    service: psutil.Process, is_killed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = [service, *service.children(recursive=True)]
    assert len(group) == 3 and set(find_members(tmp_path / "runs/services", "mlflow")) == set(group)
    if is_killed:
        service.kill()
        service.wait()
        assert find_process(tmp_path / "runs/services", "mlflow") is None
        assert set(find_members(tmp_path / "runs/services", "mlflow")) == set(group[1:])
    down(tmp_path)
    assert capsys.readouterr().out == "mlflow: ended\n"
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in group)


@pytest.mark.usefixtures("service")
def test_the_session_of_a_later_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "runs/services/mlflow.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "started": record["started"] - 1000}))
    assert find_members(file.parent, "mlflow") == []
    file.write_text(json.dumps(record))
    assert len(find_members(file.parent, "mlflow")) == 3
    (tmp_path / "prefect.json").write_text("cut off")
    assert find_members(tmp_path, "prefect") == [] and find_members(tmp_path, "none") == []


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.services.processes.END_PATIENCE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    member = psutil.Process(process.pid)
    assert end([member]) == 1 and not member.is_running()
    process.wait()
