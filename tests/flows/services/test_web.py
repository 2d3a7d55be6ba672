"""The check in front of Prefect's and MLflow's servers: host, origin, token and size of a request."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from flows.services.web import LOGIN, POLICY_VIOLATION, Guarded, Message, Receive, Scope, Send

TOKEN, HOST = "t" * 43, "127.0.0.1:4200"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"onestep:{password}".encode()).decode()}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body; a request whose body ends early fails."""
    if scope["type"] == "websocket":
        await receive()  # the connection
        await send({"type": "websocket.accept"})
        message = await receive()
        if message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "passed"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def request(method: str, path: str, host: str = HOST, **options: Any) -> httpx.Response:
    """Send a request to a guarded app that answers 200."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Guarded(echo, TOKEN, [HOST, "localhost:4200"], max_body=1000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **options)

    return anyio.run(ask)


@pytest.mark.parametrize("headers", [BEARER, basic(TOKEN)])
def test_a_request_with_the_token_passes(headers: dict[str, str]) -> None:
    assert request("POST", "/api/x", headers=headers, content=b"12345").text == "5"
    own = {**headers, "origin": f"http://{HOST}"}
    assert request("POST", "/api/x", headers=own).status_code == 200
    assert request("GET", "/", host="localhost:4200", headers=headers).status_code == 200
    other = {**headers, "origin": "http://localhost:4200"}
    assert request("POST", "/api/x", headers=other).status_code == 403  # allowed as a host, but not the one asked


@pytest.mark.parametrize(
    ("status", "host", "headers", "reason"),
    [
        (401, HOST, {}, "no token or a wrong one"),
        (401, HOST, {"authorization": "Bearer wrong"}, "no token or a wrong one"),
        (401, HOST, basic("wrong"), "no token or a wrong one"),
        (401, HOST, {"authorization": "Basic %%%"}, "no token or a wrong one"),
        (401, HOST, {"authorization": TOKEN}, "no token or a wrong one"),
        (403, HOST, {**BEARER, "origin": "http://["}, "is another site"),
        (413, HOST, {**BEARER, "content-length": b"\xb2"}, "a body of more than 1000 bytes"),
        (403, "evil.example", BEARER, "host 'evil.example' is not this server's"),
        (403, "127.0.0.1:4201", BEARER, "is not this server's"),
        (403, HOST, {**BEARER, "origin": "http://evil.example"}, "origin 'http://evil.example' is another site"),
        (403, HOST, {**BEARER, "origin": "null"}, "origin 'null' is another site"),
        (403, HOST, {**BEARER, "origin": f"http://{HOST}.evil.example"}, "is another site"),
        (403, HOST, {**BEARER, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "a page of another site"),
        (413, HOST, {**BEARER, "content-length": "1001"}, "a body of more than 1000 bytes"),
        (413, HOST, {**BEARER, "content-length": "-1"}, "a body of more than 1000 bytes"),
    ],
)
def test_any_other_request_is_refused_and_logged(
    status: int, host: str, headers: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        response = request("POST", "/api/deployments/1/create_flow_run", host=host, headers=headers)
    assert response.status_code == status and "refused: " in response.text
    (line,) = caplog.messages
    assert line.startswith("refused: ") and reason in line and "create_flow_run" in line and TOKEN not in line


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "content-length"])
def test_a_header_that_comes_twice_is_refused(name: str) -> None:
    headers = [("host", HOST), ("authorization", f"Bearer {TOKEN}"), ("origin", f"http://{HOST}")]
    twice = [*headers, ("content-length", "0"), *[h for h in [*headers, ("content-length", "0")] if h[0] == name]]
    response = request("POST", "/api/x", headers=twice)
    assert response.status_code == 400 and f"more than one header {name}" in response.text


def test_a_body_of_unknown_length_is_cut_off() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    assert request("POST", "/api/x", headers=BEARER, content=parts()).status_code == 413
    uploads = "/api/2.0/mlflow-artifacts/artifacts/1/x"
    assert request("PUT", uploads, headers=BEARER, content=parts()).text == "1200"
    assert request("POST", uploads, headers=BEARER, content=parts()).status_code == 413
    assert request("GET", "/version", content=parts()).status_code == 413


def test_only_a_get_of_the_health_needs_no_token() -> None:
    assert request("GET", "/api/health").status_code == request("GET", "/health").status_code == 200
    assert request("GET", "/api/health", host="evil.example").status_code == 403
    assert request("POST", "/api/health").status_code == request("GET", "/api/variables/health").status_code == 401


def test_the_login_link_leads_to_a_page_without_a_password_in_its_address() -> None:
    response = request("GET", LOGIN, headers=basic(TOKEN))
    assert (response.status_code, response.headers["location"]) == (303, f"//{HOST}/")
    for headers in ({}, basic("wrong")):
        response = request("GET", LOGIN, headers=headers)
        assert response.status_code == 401 and response.headers["www-authenticate"] == 'Basic realm="onestep"'


def test_an_empty_host_is_none_of_the_servers() -> None:
    assert Guarded(echo, TOKEN, [HOST, ""]).hosts == {HOST}


def test_no_page_can_be_shown_inside_that_of_another_site() -> None:
    assert request("GET", "/", headers=BEARER).headers["x-frame-options"] == "DENY"


def connect(headers: dict[str, str], first: str | None = None, subprotocols: tuple[str, ...] = ()) -> list[Message]:
    """Open a websocket of the guarded app, send a first message, and return the app's messages."""
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": first}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/api/events/out",
        "headers": [(k.encode(), v.encode()) for k, v in {"host": HOST, **headers}.items()],
        "subprotocols": list(subprotocols),
    }
    anyio.run(Guarded(echo, TOKEN, [HOST]), scope, receive, send)
    return sent


def test_a_websocket_needs_the_token_in_its_header_or_in_its_first_message() -> None:
    def auth(token: str) -> str:
        return json.dumps({"type": "auth", "token": f"onestep:{token}"})

    passed = {"type": "websocket.send", "text": "passed"}
    assert connect(BEARER, "x")[-1] == connect(basic(TOKEN), "x")[-1] == passed
    assert connect({}, auth(TOKEN), ("prefect",))[-1] == passed
    for headers, first, subprotocols in (
        ({}, "x", ()),
        ({}, auth(TOKEN), ()),
        ({}, auth("wrong"), ("prefect",)),
        ({}, "no json", ("prefect",)),
        ({}, "[1]", ("prefect",)),
        ({}, "[" * 100_000, ("prefect",)),
        ({}, json.dumps({"type": "auth", "token": "x:\ud800"}), ("prefect",)),
        ({"origin": "http://["}, "x", ("prefect",)),
        ({"origin": f"http://{HOST}"}, auth(TOKEN), ("prefect",)),
        ({**BEARER, "origin": "http://evil.example"}, "x", ()),
        ({**BEARER, "host": "evil.example"}, "x", ()),
    ):
        last = connect(headers, first, subprotocols)[-1]
        assert (last["type"], last["code"]) == ("websocket.close", POLICY_VIOLATION), (headers, first)
