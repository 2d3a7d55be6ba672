"""Requests of other sites, hosts and users to the servers of `make up`: refused and logged, and nothing happens."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.browser import chromium, visit
from tests.helpers.projects import copy_of_the_project, environment, run
from tests.helpers.servers import Ui, call, eventually, free_port
from tests.helpers.team.compose import read_compose, read_settings, server_command

pytestmark = pytest.mark.slow

TOKEN = "a token of some length"

# What a page of another site can try: a plain form, fetch with each mode, and a websocket.
PAGE = """
<!doctype html><form id="form" method="post" action="{prefect}/api/deployments/{id}/create_flow_run" target="frame"
  enctype="text/plain"><input name='{{"parameters":{{"target":"' value='data"}}}}'></form><iframe name="frame"></iframe>
<script>
const body = JSON.stringify({{parameters: {{target: "data", overrides: {{"train.launcher": "touch X; python -m"}}}}}})
const attempts = []
for (const [url, method] of [["{prefect}/api/deployments/{id}/create_flow_run", "POST"],
                             ["{mlflow}/api/2.0/mlflow/experiments/create", "POST"],
                             ["{mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=5", "GET"],
                             ["{prefect}/api/flow_runs/filter", "POST"]])
  for (const mode of ["cors", "no-cors"])
    for (const kind of ["application/json", "text/plain"])
      attempts.push(fetch(url, {{method, mode, credentials: "include",
                                 ...(method === "POST" && {{body, headers: {{"Content-Type": kind}}}})}})
        .then(r => r.type === "opaque" ? "opaque" : "read").catch(() => "blocked"))
attempts.push(new Promise(done => {{
  const socket = new WebSocket("{prefect}".replace("http", "ws") + "/api/events/out", ["prefect"])
  socket.onopen = () => done("read")
  socket.onerror = () => done("blocked")
}}))
document.getElementById("form").submit()
Promise.all(attempts).then(results => document.title = results.join(" "))
</script>
"""


CLIENTS = """
from pathlib import Path
from flows.services.servers import use_local_servers
use_local_servers(Path.cwd())
import mlflow
from prefect.client.orchestration import get_client
print(mlflow.MlflowClient(mlflow.get_tracking_uri()).create_experiment("own"))
print(get_client(sync_client=True).read_flows() is not None)
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ui, str]]:
    """The client of the Prefect server, and the address of the MLflow server."""
    project = copy_of_the_project(tmp_path_factory.mktemp("attacked") / "project")
    port, mlflow = free_port(), free_port()
    ports = {"PREFECT_PORT": str(port), "MLFLOW_PORT": str(mlflow)}
    try:
        up = call(project, "up", **ports)
        assert up.returncode == 0, up.stdout + up.stderr
        yield Ui(project, port), f"http://127.0.0.1:{mlflow}"
    finally:
        call(project, "down", **ports)


def log(ui: Ui, name: str) -> str:
    return (ui.project / f"runs/services/{name}.log").read_text()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_another_site_starts_no_run_and_reads_nothing(
    servers: tuple[Ui, str], tmp_path: Path, host: str
) -> None:
    """The browser is logged in to both servers, as the user's own browser is.

    Browsers count another port of 127.0.0.1 as the same site and send it the cookie, but not as the same origin.
    """
    ui, mlflow = servers
    page = PAGE.format(prefect=ui.url, mlflow=mlflow, id=ui.deployment("workspace"))
    (tmp_path / "index.html").write_text(page)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    site = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    before = len(ui.ask("flow_runs/filter"))
    with chromium() as browser, visit(browser, "about:blank") as view:
        for url in (ui.url, mlflow):
            view.page.goto(
                url.replace("http://", f"http://onestep:{ui.token}@") + "/onestep/login", wait_until="commit"
            )
            view.page.wait_for_url(lambda now, url=url: now.startswith(url))
        view.page.goto(f"http://{host}:{site.server_port}/index.html")
        view.page.wait_for_function("document.title !== ''")
        results = view.page.title().split()
    site.shutdown()
    assert len(results) == 17 and set(results) == {"blocked", "opaque"}, results  # opaque: an answer it cannot read
    assert len(ui.ask("flow_runs/filter")) == before
    assert not list(ui.project.rglob("X"))
    for name in ("prefect", "mlflow"):
        assert f"origin 'http://{host}:{site.server_port}' is another site" in log(ui, name)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Host": "evil.example"}])
def test_a_request_without_the_token_or_for_another_host_is_refused(
    servers: tuple[Ui, str], headers: dict[str, str]
) -> None:
    ui, mlflow = servers
    token = {"Authorization": f"Bearer {ui.token}"} if "Host" in headers else {}
    for url, path in (
        (ui.url, f"/api/deployments/{ui.deployment('workspace')}/create_flow_run"),
        (ui.url, "/"),
        (mlflow, "/api/2.0/mlflow/experiments/create"),
        (mlflow, "/"),
        (mlflow, "/graphql"),
    ):
        request = urllib.request.Request(url + path, b"{}", {"Content-Type": "application/json", **token, **headers})
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(request, timeout=30)
        assert e.value.code == (403 if "Host" in headers else 401)


def test_an_oversized_body_is_refused_before_it_is_read(servers: tuple[Ui, str]) -> None:
    ui, mlflow = servers
    for url, path in ((ui.url, "/api/logs/"), (mlflow, "/api/2.0/mlflow/runs/log-batch")):
        host = url.removeprefix("http://")
        with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=30) as s:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ui.token}\r\n"
            s.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
            assert s.recv(100).startswith(b"HTTP/1.1 413")


def start_for_deploy(service: str, port: int, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server by its command and settings in deploy/compose.yaml, with local stores in place of containers.

    Returns the process and the address of the server.
    """
    names = ("POSTGRES_PASSWORD", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
    hosts = {f"{name}_HOSTS": f"127.0.0.1:{port}" for name in ("PREFECT", "MLFLOW")}
    compose = read_compose(read_settings({**dict.fromkeys(names, "none"), "ONESTEP_TOKEN": TOKEN, **hosts}))
    command = server_command(compose, service, port, {}, folder)
    stores = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": f"{folder}/artifacts",
    }
    env = {**environment(), **command.env, **{name: stores[name] for name in stores.keys() & command.env.keys()}}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command.argv, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("service", "health"), [("prefect", "/api/health"), ("mlflow", "/health")])
def test_the_servers_of_deploy_refuse_the_same(service: str, health: str, tmp_path: Path) -> None:
    process, url = start_for_deploy(service, free_port(), tmp_path)

    def status(path: str, **headers: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            return 0

    token = {"Authorization": f"Bearer {TOKEN}"}
    try:
        assert eventually(lambda: status(health) == 200 or process.poll() is not None, 180)
        assert status("/", **token) == 200, (tmp_path / "log").read_text()[-2000:]
        assert status("/") == status("/", Authorization="Bearer wrong") == 401
        assert status("/", **token, Host="evil.example") == 403
        assert status("/", **token, Origin="http://evil.example") == 403
        assert status("/", **token, **{"Content-Length": str(10**12)}) == 413
        assert (tmp_path / "log").read_text().count("refused: ") == 5
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


TEMPORARY = """
import os, urllib.error, urllib.request
from pathlib import Path
from flows.services.prefect_setup import set_up_prefect
set_up_prefect(Path.cwd())
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    assert client.read_flows() == []
request = urllib.request.Request(f"{os.environ['PREFECT_API_URL']}/flows/filter", b"{}")
try:
    urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as e:
    print(e.code)
"""


def test_the_temporary_server_of_a_run_needs_its_token(tmp_path: Path) -> None:
    assert run(copy_of_the_project(tmp_path / "project"), "-c", TEMPORARY).stdout.strip() == "401"


def test_clients_of_the_project_work_with_both_servers(servers: tuple[Ui, str]) -> None:
    """A run through the served deployment reaches both servers, as do the clients of a terminal."""
    ui, _ = servers
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS], cwd=ui.project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.split()[1] == "True", done.stdout + done.stderr
    request = {"parameters": {"target": "data"}, "state": {"type": "SCHEDULED"}}
    ui.ask(f"deployments/{ui.deployment('workspace')}/create_flow_run", **request)
    assert ui.wait_for("data", "COMPLETED")["state"]["message"].endswith("data Ran")
