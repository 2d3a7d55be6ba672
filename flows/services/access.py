"""The token of the servers that `make up` starts: a file of mode 600, and the variables by which clients send it."""

import os
import secrets
from pathlib import Path

from dmd.errors import UserError
from flows.services.web import LOGIN, USER

BYTES = 32


def token_file(folder: Path) -> Path:
    """Return the file of the token in the folder of the services."""
    return folder / "token"


def make_token(folder: Path) -> str:
    """Return the token in the folder of the services; create it if there is none.

    Raises UserError if other users of the machine can read the file.
    """
    file = token_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_urlsafe(BYTES) + "\n")
    except FileExistsError:
        pass
    return read_token(folder)


def read_token(folder: Path) -> str:
    """Read the token. Raises UserError if there is none, or if other users of the machine can read the file."""
    file = token_file(folder)
    if not file.is_file():  # the servers were started by an earlier version, which had no token
        raise UserError(f"{file}: the running servers have no token; run make down, then make up")
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file}: other users can read the token; run make down, delete the file, then run make up")
    if not (token := file.read_text().strip()):
        raise UserError(f"{file}: the file is empty; run make down, delete it, then run make up")
    return token


def client_variables(name: str, token: str) -> dict[str, str]:
    """Return the environment variables by which clients of a service, prefect or mlflow, send the token."""
    return {
        "prefect": {"PREFECT_API_AUTH_STRING": f"{USER}:{token}"},
        "mlflow": {"MLFLOW_TRACKING_TOKEN": token},
    }[name]


def login_link(url: str, token: str) -> str:
    """Return the link that logs a browser in: a browser keeps its password for this server alone."""
    return url.replace("http://", f"http://{USER}:{token}@") + LOGIN
