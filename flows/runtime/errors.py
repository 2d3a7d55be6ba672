"""Other tools' errors, made fit for a user."""


def one_line(error: BaseException) -> str:
    """The first paragraph of an error's text on one line, or its type where it has none."""
    text = str(error).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__
