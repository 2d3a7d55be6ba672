"""Format the errors of other tools."""


def one_line(error: BaseException) -> str:
    """Return the first paragraph of an error's text on one line, or the name of its type if the text is empty."""
    text = str(error).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__
