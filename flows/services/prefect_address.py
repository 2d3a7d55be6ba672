"""Checks the address of a Prefect server without Prefect's own modules, whose import takes seconds."""

from dmd.errors import UserError
from dmd.redaction import redact
from flows.runtime.reach import find_silence


def check_prefect(url: str) -> None:
    """Raise UserError if the server of an address does not answer; an empty address is none."""
    if silence := find_silence(url, "/health"):
        raise UserError(
            f"the Prefect server {redact(url)} can't be reached ({silence}): start it, or unset PREFECT_API_URL "
            "(prefect config view shows where it is set)"
        )
