"""Errors in a user's input. Each message says what is wrong, where, and what to do."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """An error that a command prints as one line, without a traceback."""

    def __str__(self) -> str:
        lines = super().__str__().split("\n")
        if len(lines) > MOST_LINES + 1:  # with the last line of `join_mistakes`
            lines = [*lines[:MOST_LINES], _count_more(len(lines))]
        return "\n".join(shorten(printable(shorten(line, LONGEST_READ))) for line in lines)


MOST_LINES = 50  # lines of a message: a file can hold a hundred thousand mistakes
LONGEST_READ = 100_000  # characters of a line that are made printable, which takes a microsecond for each
LONGEST_LINE = 3000  # characters of a line of a message; the list of all keys of a group takes two thousand


def join_mistakes(mistakes: Sequence[T], describe: Callable[[T], str]) -> str:
    """Describe the first MOST_LINES mistakes, each in one line and equal lines once, and count the others."""
    lines = dict.fromkeys(map(describe, mistakes[:MOST_LINES]))
    return "\n".join([*lines, *([_count_more(len(mistakes))] if len(mistakes) > MOST_LINES else [])])


def _count_more(mistakes: int) -> str:
    return f"and {mistakes - MOST_LINES:,} more mistakes"


def shorten(line: str, most: int = LONGEST_LINE) -> str:
    """Return a line without its middle if it is longer than `most` characters: a name in a file may have millions."""
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def quote(name: object, most: int = 200) -> str:
    """Return a name out of a file as part of a line: control characters, newlines and ends of lines as escapes."""
    return "".join(f"\\x{ord(c):02x}" if is_control(c) or c in ENDS else c for c in shorten(str(name), most))


ENDS = "\u2028\u2029"  # line and paragraph separators, which also end a line
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # a terminal shows what follows from right to left


def printable(text: str) -> str:
    """Return text with control characters except newlines as escapes: a terminal would obey those in a file's name."""
    hidden = ENDS + TURNS
    return "".join(f"\\x{ord(c):02x}" if (is_control(c) or c in hidden) and c != "\n" else c for c in text)


def is_control(character: str) -> bool:
    """Whether a character is a control character of Unicode (C0, DEL or C1)."""
    return unicodedata.category(character) == "Cc"


class ConfigError(UserError):
    """Mistakes in params.yaml; the message has one line for each mistake."""


class DataError(UserError):
    """The data are missing, have changed, or do not fit."""


class TeacherError(UserError):
    """A teacher or generator could not be loaded, or does not fit."""


class PickleError(UserError):
    """A pickle is damaged, or asks for an object that plain data do not need."""


class EngineError(UserError):
    """An engine is unknown or not installed, or cannot run a generator's network."""


class EvaluatorError(UserError):
    """The evaluator could not be loaded."""


class HubError(UserError):
    """A model could be neither downloaded nor found in the local cache."""


class FeatureNetworkError(UserError):
    """A frozen feature network is unknown, or its weights could not be found or loaded."""


class CheckpointError(UserError):
    """A checkpoint exists but must not be used as it is."""


class NumberError(UserError):
    """NaN or infinite values, from which no image and no figure follows."""


def one_line(error: BaseException) -> str:
    """Return the message of a library's error in one line of at most 300 characters, with its type where it needs one.

    The message of a KeyError, for instance, is only the key.
    """
    text = " ".join(str(error).split())
    is_a_sentence = isinstance(error, OSError | RuntimeError | ValueError) and text
    return (text if is_a_sentence else f"{type(error).__name__}: {text}")[:300]
