"""The server of the page: on 127.0.0.1 alone, behind the check that also protects Prefect's and MLflow's servers.

A page of another site, and another user of the machine, cannot reach it: each request needs the server's own host and
origin, and the token of the printed link.
"""

import os
import secrets
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmd.errors import UserError
from flows.services.access import BYTES, login_link
from flows.services.web import Guarded

if TYPE_CHECKING:
    from flows.playing.models import Pair

HOST = "127.0.0.1"
MAX_BODY = 2**20  # bytes: the page uploads no files


def check_ready(port: int) -> None:
    """Raise UserError if Gradio is not installed, or if the port cannot be used."""
    if find_spec("gradio") is None:
        raise UserError("the playground needs the package gradio: pip install '.[playground]'")
    if not 1 <= port <= 65535:
        raise UserError(f"--port: {port} is not a port; use 1 to 65535")
    with socket.socket() as s:
        if s.connect_ex((HOST, port)) == 0:
            raise UserError(f"--port: {port} is in use by another program; name another one")


def make_app(pair: "Pair", port: int, token: str, scratch: Path) -> Guarded:
    """Return the page behind the check. scratch: a folder for the pictures, which is closed to other users."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(scratch / "pictures")
    import gradio as gr  # pyright: ignore[reportMissingImports] # an extra
    from fastapi import FastAPI

    from flows.playing.page import build_page

    # Fonts of the system: the default theme fetches its own from Google.
    theme = gr.themes.Default(font=["sans-serif"], font_mono=["monospace"])
    options: dict[str, Any] = {"run_history": False, "ssr_mode": False, "mcp_server": False, "enable_monitoring": False}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app, build_page(pair), "/", server_name=HOST, server_port=port, footer_links=[], theme=theme, **options
    )
    return Guarded(app, token, [f"{HOST}:{port}"], MAX_BODY)


def serve(pair: "Pair", port: int, scratch: Path) -> None:
    """Serve the page until the process is ended, and print the link to it as soon as it answers."""
    import uvicorn

    token = secrets.token_urlsafe(BYTES)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(f"open {login_link(f'http://{HOST}:{port}', token)}", flush=True)
                print("the link logs a browser in, so treat it like a password; Ctrl-C ends the server", flush=True)

    app = make_app(pair, port, token, scratch)
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "proxy_headers": False}
    Server(uvicorn.Config(app, host=HOST, port=port, **options)).run()
