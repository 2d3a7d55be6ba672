"""What a user is told in one line, without a traceback."""


class UserError(RuntimeError):
    """An expected failure: its text is one clear sentence for the one who started the run."""


def one_line(error: BaseException) -> str:
    """The first paragraph of an error's text on one line, or its type where it has none."""
    text = str(error).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__
