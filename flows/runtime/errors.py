"""Format the errors of other tools."""

from dmd.redaction import redact


def one_line(error: BaseException) -> str:
    """Return the first paragraph of an error's text on one line, or the name of its type if the text is empty.

    Passwords and tokens in the text are hidden.
    """
    text = redact(str(error)).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__
