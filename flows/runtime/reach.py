"""Find out within seconds whether a server answers; the clients of Prefect, MLflow and databases try for minutes."""

import socket
import ssl
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds; resolving a name has no timeout of its own, so all of it runs in a thread
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def find_silence(address: str, path: str = "") -> str | None:
    """Return why the server of an address does not answer; None if it does, or if the address names no server.

    path: what is asked for below an http address; any answer counts, also a refusal
    """
    if not urlsplit(address).hostname:
        return None
    reasons = ["no answer"]

    def ask() -> None:
        try:
            _request(address, path)
            reasons.clear()
        except (OSError, ValueError) as e:
            reasons[:] = [str(getattr(e, "reason", None) or e)]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return next(iter(reasons), None)


def _request(address: str, path: str) -> None:
    parts = urlsplit(address)
    if parts.scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(address.rstrip("/") + path, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError:
            return
        except urllib.error.URLError as e:
            # A certificate that Python does not trust: the clients have settings of their own, such as their bundles.
            if isinstance(e.reason, ssl.SSLCertVerificationError):
                return
            raise
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if port is not None:
        socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT).close()
