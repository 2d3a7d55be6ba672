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
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import httpx
import uvicorn

from dmd.errors import UserError
from flows.runtime.environment import child_environment

HOST = "127.0.0.1"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
GRACE = 2.0  # seconds in which the server writes what it has received
END_PATIENCE = 5.0  # seconds until a server that does not end by itself is killed
RESTARTS = 3  # of a server that something else has killed, such as the system for want of memory


class TemporaryServer:
    """A server that starts in the background, which takes seconds."""

    def __init__(self, prepare: Callable[[], None], env: Mapping[str, str], patience: float) -> None:
        """prepare: is called first, such as to make the database. env: variables for the server beside this process's.

        patience: seconds within which it must answer.
        """
        self.prepare, self.env, self.patience = prepare, dict(env), patience
        self.url: Future[str] = Future()
        self.process: subprocess.Popen[bytes] | None = None
        self.lock, self.is_unwanted, self.is_started = threading.Lock(), False, False

    def start(self) -> None:
        """Begin to start; a second call does nothing."""
        if not self.is_started:
            self.is_started = True
            threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> str:
        """Return the address of its API. Raises UserError if it does not answer, and the errors of `prepare`."""
        return self.url.result()

    def cancel(self) -> None:
        """End the server, which nobody has used."""
        with self.lock:
            self.is_unwanted = True
            if self.process is not None:
                self.process.kill()
                self.process.wait()

    def _end(self) -> None:
        """End the server; at once if it has not answered yet, since it then has nothing to write."""
        with self.lock:
            has_answered = self.url.done() and self.process is not None and not self.is_unwanted
            self.is_unwanted = True
        if has_answered and self.process is not None:
            _end(self.process)
        else:
            self.cancel()

    def _run(self) -> None:
        try:
            self.prepare()
            port = _find_port()
            with self.lock:
                if self.is_unwanted:
                    return
                self.process = _spawn(port, self.env)
            atexit.register(self._end)
            self.url.set_result(_await_answer(self.process, f"http://{HOST}:{port}/api", self.patience))
        except BaseException as e:
            self.url.set_exception(e)
        else:
            self._keep_alive(self.process, port)

    def _keep_alive(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        """Start the server again on its port if it ends before the run, whose client tries for a minute to reach it."""
        for _ in range(RESTARTS):
            code = process.wait()
            with self.lock:
                if self.is_unwanted:
                    return
                self.process = process = _spawn(port, self.env)
            print(f"the temporary Prefect server ended with exit code {code}; it starts again", file=sys.stderr)


def _spawn(port: int, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process of a server.

    The signals are blocked before it starts, and stay blocked in it. It ends when this process closes the pipe, which
    the system does for a process that is killed.
    """
    argv = [sys.executable, "-m", "flows.services.temporary_server", str(port)]
    variables = {**child_environment(), **env}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(argv, env=variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _await_answer(process: "subprocess.Popen[bytes]", url: str, patience: float) -> str:
    """Return the address as soon as it answers. Raises UserError if the process ends, or after `patience` seconds."""
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
