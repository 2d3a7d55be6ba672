"""The Prefect server of one run: it ends when the process of the run ends, and not before.

A terminal, systemd and Slurm send a signal to all processes of a run at once. The server must outlive the run, which
otherwise waits for minutes for a server that is gone, and cannot record its final state.
"""

import atexit
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import uvicorn

from dmd.errors import UserError
from flows.runtime.environment import child_environment

HOST = "127.0.0.1"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
GRACE = 2.0  # seconds in which the server writes what it has received
END_PATIENCE = 5.0  # seconds until a server that does not end by itself is killed


def start(patience: float) -> str:
    """Start a server with the environment of this process and return the address of its API.

    The signals are blocked before the server starts, and stay blocked in it. It ends when this process closes the pipe,
    which the system does for a process that is killed.

    Raises UserError if the server does not answer within `patience` seconds.
    """
    port = _find_port()
    argv = [sys.executable, "-m", "flows.services.temporary_server", str(port)]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process = subprocess.Popen(argv, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.register(_end, process)
    url = f"http://{HOST}:{port}/api"
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"the temporary Prefect server ended with exit code {process.returncode}; run again")
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return url
        except httpx.HTTPError:
            time.sleep(0.1)
    raise UserError(f"the temporary Prefect server did not answer within {patience:g} s; run again")


def _find_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Run the server until standard input is closed."""
    from prefect.server.api.server import create_app

    os.environ["PREFECT_UI_ENABLED"] = "0"
    app = functools.partial(create_app, ephemeral=True, final=True)
    config = uvicorn.Config(app, factory=True, host=HOST, port=port, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run()


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    logging.disable()  # what Prefect's services report while they are cancelled would follow the run's own last line
    server.should_exit = True
    time.sleep(GRACE)
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
