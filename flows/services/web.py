"""Prefect's and MLflow's servers behind a check of each request's host, origin, token and size.

    uvicorn --factory flows.services.web:prefect_app --port 4200

Both servers run code that a request names, so a page of another site in the user's browser, or another user of the
machine, must not reach them. This module uses the standard library alone, because deploy/compose.yaml also runs it in
images without this project. Environment variables:

    ONESTEP_TOKEN_FILE   file with the token, or ONESTEP_TOKEN: the token itself
    ONESTEP_HOSTS        hosts with port that the server answers to, separated by commas: 127.0.0.1:4200
    ONESTEP_MAX_BODY     largest body of a request in bytes (default 64 MiB); an upload of an artifact has no limit

A browser sends the token as the password of Basic authentication, which it keeps for one port. A cookie would go to
every port of the host, where a program of another user may listen.
"""

import base64
import hmac
import html
import json
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

USER = "onestep"  # of Basic authentication; only the token counts
LOGIN = "/onestep/login"  # leads a browser that has logged in there to the start page, whose address has no password
HEALTH = ("/api/health", "/api/ready", "/health", "/version")  # GET needs no token
UPLOADS = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
MAX_BODY = 64 * 2**20  # bytes
MAX_FIRST_MESSAGE = 4096  # characters of the first message of a websocket without the token in its header
POLICY_VIOLATION = 1008  # close code of a websocket

DECISIVE = (b"host", b"origin", b"authorization", b"content-length", b"sec-fetch-site", b"sec-fetch-mode")

log = logging.getLogger("uvicorn.error")


class Guarded:
    """An ASGI app that answers only requests to its own host, from its own origin, with the token.

    The token comes as the password of Basic authentication or as a Bearer token. Prefect's clients open some websockets
    without a header and send the token as their first message.
    """

    def __init__(self, app: App, token: str, hosts: list[str], max_body: int = MAX_BODY) -> None:
        self.app = app
        self.token = token
        self.hosts = {host.strip().lower() for host in hosts} - {""}
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # the server's start and end
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if name := repeated_header(scope):
            return await refuse(scope, send, 400, f"more than one header {name}")
        if fault := self.find_foreign(headers):
            return await refuse(scope, send, 403, fault)
        if scope["type"] == "websocket":
            return await self.open_socket(scope, headers, receive, send)
        if scope["method"] == "GET" and scope["path"] in HEALTH:
            return await self.forward(scope, headers, receive, send, limit=0)
        if not self.is_known(headers):
            return await refuse(scope, send, 401, "no token or a wrong one; open the link printed at the start")
        if scope["path"] == LOGIN:
            return await answer(send, 303, "logged in", [("location", f"//{headers['host']}/")])
        is_upload = scope["method"] == "PUT" and scope["path"].startswith(UPLOADS)
        await self.forward(scope, headers, receive, send, limit=None if is_upload else self.max_body)

    def find_foreign(self, headers: dict[str, str]) -> str | None:
        """Return what is wrong with the Host and Origin of a request; None if they are the server's own."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if host not in self.hosts:
            return f"host {host[:100]!r} is not this server's"
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return f"origin {origin[:100]!r} is another site"
        # A browser names no origin in a GET without CORS, but says where the page comes from that asks for it.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in ("cross-site", "same-site") and mode != "navigate":
            return "a page of another site asks for it"
        return None

    def is_known(self, headers: dict[str, str]) -> bool:
        """Return whether a request has the token."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(value.strip())
        if scheme.lower() == "basic":
            try:
                return self.is_token(base64.b64decode(value).decode().partition(":")[2])
            except ValueError:
                return False
        return False

    def is_token(self, text: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(text.encode(errors="surrogatepass"), self.token.encode())

    async def forward(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send, limit: int | None
    ) -> None:
        """Pass a request to the app, and refuse it with 413 as soon as its body has more than `limit` bytes."""
        text = f"a body of more than {limit} bytes"
        length = headers.get("content-length", "0")
        is_number = length.isascii() and length.isdigit()
        if limit is not None and not (is_number and int(length[:20]) <= limit):
            return await refuse(scope, send, 413, text)
        size, is_too_large, has_started = 0, False, False

        async def receive_counted() -> Message:
            nonlocal size, is_too_large
            message = await receive()
            size += len(message.get("body", b""))
            is_too_large = limit is not None and size > limit
            return {"type": "http.disconnect"} if is_too_large else message

        async def send_framed(message: Message) -> None:
            nonlocal has_started
            if is_too_large and not has_started:
                return  # the app's answer to the cut connection
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message.get("headers", []), (b"x-frame-options", b"DENY")]
            await send(message)

        try:
            await self.app(scope, receive_counted, send_framed)
        except Exception:
            if not is_too_large:
                raise
        if is_too_large and not has_started:
            await refuse(scope, send, 413, text)

    async def open_socket(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        """Pass a websocket to the app; without a token in its header, its first message must be Prefect's with it."""
        if self.is_known(headers):
            return await self.app(scope, receive, send)
        if "origin" in headers or "prefect" not in scope.get("subprotocols", []):
            return await refuse(scope, send, 401, "a websocket without the token")
        is_checked = False

        async def receive_checked() -> Message:
            nonlocal is_checked
            message = await receive()
            if message["type"] == "websocket.receive" and not is_checked:
                if not self.is_token(first_token(message)):
                    await refuse(scope, send, 401, "a websocket whose first message has no token or a wrong one")
                    return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
                is_checked = True
            return message

        await self.app(scope, receive_checked, send)


def repeated_header(scope: Scope) -> str | None:
    """Return a header that decides on a request and that the request has twice: the app might read the other one."""
    names = [name.lower() for name, _ in scope["headers"]]
    return next((name.decode() for name in DECISIVE if names.count(name) > 1), None)


def first_token(message: Message) -> str:
    """Return the token in the first message of Prefect's websockets, {"type": "auth", "token": "user:TOKEN"}, or ""."""
    text = message.get("text") or message.get("bytes") or ""
    try:
        content = json.loads(text[:MAX_FIRST_MESSAGE])
        return str(content["token"]).partition(":")[2] if content["type"] == "auth" else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


async def refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Refuse a request or a websocket, and log why."""
    client = (scope.get("client") or ("unknown",))[0]
    log.warning("refused: %s, %s %r from %r", reason, scope.get("method", "websocket"), scope["path"][:200], client)
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason[:100]})
    challenge = [("www-authenticate", f'Basic realm="{USER}"')] if status == 401 else []
    await answer(send, status, f"<!doctype html>refused: {html.escape(reason)}", challenge)


async def answer(send: Send, status: int, page: str, headers: list[tuple[str, str]]) -> None:
    """Send a page."""
    fields = [("content-type", "text/html; charset=utf-8"), ("x-frame-options", "DENY"), *headers]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": page.encode()})


def guard(app: App) -> Guarded:
    """Put an app behind the check that the environment describes. Raises SystemExit without a token or hosts."""
    file, hosts = os.environ.get("ONESTEP_TOKEN_FILE"), os.environ.get("ONESTEP_HOSTS", "")
    token = Path(file).read_text().strip() if file else os.environ.get("ONESTEP_TOKEN", "").strip()
    if len(token) < 16 or not hosts:
        raise SystemExit(
            "error: ONESTEP_TOKEN_FILE or ONESTEP_TOKEN (16 characters or more), and ONESTEP_HOSTS, must be set"
        )
    return Guarded(app, token, hosts.split(","), int(os.environ.get("ONESTEP_MAX_BODY", MAX_BODY)))


def prefect_app() -> Guarded:
    """Prefect's server, configured by its own environment variables."""
    from prefect.server.api.server import create_app

    return guard(create_app())


def mlflow_app() -> Guarded:
    """MLflow's server, with the store MLFLOW_BACKEND_STORE_URI and artifacts below MLFLOW_ARTIFACTS_DESTINATION."""
    store, artifacts = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    from mlflow.server import (
        ARTIFACT_ROOT_ENV_VAR,
        ARTIFACTS_DESTINATION_ENV_VAR,
        BACKEND_STORE_URI_ENV_VAR,
        SERVE_ARTIFACTS_ENV_VAR,
    )
    from mlflow.server.handlers import initialize_backend_stores

    root = "mlflow-artifacts:/"
    variables = {
        BACKEND_STORE_URI_ENV_VAR: store,
        ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        ARTIFACT_ROOT_ENV_VAR: root,
        SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": os.environ.get("ONESTEP_HOSTS", ""),
    }
    os.environ.update(variables)
    initialize_backend_stores(store, store, root)
    from mlflow.server.fastapi_app import app

    return guard(app)
