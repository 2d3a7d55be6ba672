"""Fixtures for the tests of flows: a Prefect server."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from flows.runtime.process import end_group
from tests.helpers.servers import Server, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for the tests of one module."""
    home = tmp_path_factory.mktemp("prefect")
    server = Server(home)
    argv = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", server.url.split(":")[2].split("/")[0]]
    with server.log.open("w") as log:
        process = server.start(sys.executable, *argv, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        up = eventually(lambda: server.is_healthy() or process.poll() is not None, patience=120)
        assert up and process.poll() is None, server.log.read_text()[-3000:]
        yield server
    finally:
        end_group(process)
