"""The processes of a service that `make up` started, found by its pid file."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from flows.runtime.process import is_running

END_PATIENCE = 20.0  # seconds before a process that does not end is killed


def find_process(folder: Path, name: str) -> psutil.Process | None:
    """Return the running process of a pid file; None if its pid now belongs to a process that started later."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if record := _read_record(folder, name):
            process = psutil.Process(record["pid"])
            if _is_original(process, record) and is_running(process):
                return process
    return None


def find_members(folder: Path, name: str) -> list[psutil.Process]:
    """Return all running processes of a service, also if its first process was killed.

    A service is a session of its own, whose number is the id of its first process. The system gives that number to no
    other process as long as the session has a member.
    """
    record = _read_record(folder, name)
    if record is None:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        if not _is_original(psutil.Process(record["pid"]), record):
            return []
    members: dict[psutil.Process, None] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == record["pid"] and is_running(process):
                members |= dict.fromkeys([process, *process.children(recursive=True)])
    return list(members)


def _is_original(process: psutil.Process, record: dict[str, Any]) -> bool:
    return abs(process.create_time() - record["started"]) < 1


def _read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the content of a pid file; None if there is none."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads((folder / f"{name}.json").read_text())
    return None


def end(processes: list[psutil.Process]) -> int:
    """Terminate processes, kill those that remain after END_PATIENCE, and return how many there were."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in filter(is_running, processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        psutil.wait_procs(processes, timeout=END_PATIENCE)
        if not any(map(is_running, processes)):
            break
    return len(processes)
