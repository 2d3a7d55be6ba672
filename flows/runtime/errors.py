"""Format the errors of other tools, and of flows."""

from typing import TYPE_CHECKING, Any

from dmd.errors import UserError
from dmd.redaction import redact

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def one_line(error: BaseException) -> str:
    """Return the first paragraph of an error's text on one line, or the name of its type if the text is empty.

    Passwords and tokens in the text are hidden.
    """
    text = redact(str(error)).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


def error_of(state: "State[Any]") -> UserError:
    """Return the error of a flow that did not complete: the message of its state, and the error there as the cause."""
    error = UserError(state.message or f"the flow run ended {state.name}")
    error.__cause__ = state.data if isinstance(state.data, BaseException) else None
    return error
