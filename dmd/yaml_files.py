"""Reads YAML and JSON that a user or a stranger wrote: within bounds, and with every mistake in one line.

A few lines of YAML can stand for gigabytes, by aliases of aliases, and deep lists or long numbers end in errors of
their own. The events of the parser show all of that before any value is made.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)

from dmd.errors import ConfigError, UserError, one_line

MAX_FILE = 2**20  # bytes
MAX_SIZE = 2**21  # characters, with each alias counted as often as it is used
OF_A_VALUE = 40  # characters that a value counts beside its own: it is far slower to read than a character
MAX_DEPTH = 50  # lists and groups inside one another
MAX_DIGITS = 300  # more than those of the largest float
LONG_NUMBER = re.compile(rf"[-+]?[0-9][0-9a-fA-F_xXoO]{{{MAX_DIGITS},}}")


def load_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ConfigError, in one line, for a file that is unreadable, too large, or not YAML."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a file")  # reading a pipe would wait for ever
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}") from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE:,} bytes, the most that is read")
    try:
        return parse_yaml(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8 text: {e}") from None


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2, as DVC does: 1e-3 is a number. Raises ConfigError, in one line that begins with `where`."""
    try:
        if fault := _find_fault(text):
            raise ConfigError(f"{where}: {fault}")
        return YAML(typ="safe").load(text)
    except (ConfigError, MemoryError):
        raise
    except Exception as e:  # a value that does not fit its tag, such as !!int "", raises an error of almost any type
        raise ConfigError(f"{where}: not valid YAML: {one_line(e)}") from None


def _find_fault(text: str) -> str:
    """Say why a document must not be loaded, "" if it may. Raises YAMLError for a mistake in its grammar."""
    sizes = [0]  # of the values that are open, from the outermost to the innermost
    anchors = [""]  # their names
    named: dict[str, int] = {}  # sizes of the values that have a name
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, AliasEvent) and event.anchor in anchors:
            return f"the value {event.anchor} contains itself; write it out"
        size = _size(event, named)
        if size is None:
            return f"a number of more than {MAX_DIGITS} digits; use a shorter one"
        if isinstance(event, CollectionStartEvent):
            sizes.append(size)
            anchors.append(event.anchor or "")
        else:
            if isinstance(event, CollectionEndEvent):
                size, anchor = sizes.pop(), anchors.pop()
            else:
                anchor = event.anchor if isinstance(event, ScalarEvent) else None
            sizes[-1] += size
            if anchor:
                named[anchor] = size
        if len(sizes) > MAX_DEPTH:
            return f"values inside one another to a depth of more than {MAX_DEPTH}; use fewer"
        if sum(sizes) > MAX_SIZE:
            return (
                f"more than {MAX_SIZE:,} characters, or {MAX_SIZE // OF_A_VALUE:,} values, aliases included; use fewer"
            )
    return ""


def _size(event: Event, named: dict[str, int]) -> int | None:
    """Return the size that an event adds; None for a number that is too long."""
    if isinstance(event, AliasEvent):
        return named.get(event.anchor, OF_A_VALUE)
    if isinstance(event, ScalarEvent):
        return None if not event.style and LONG_NUMBER.match(event.value) else OF_A_VALUE + len(event.value)
    return OF_A_VALUE if isinstance(event, NodeEvent) else 0


MAX_JSON = 2**26  # bytes; details.json of a thousand classes and the prompts of a generator take a few million
MAX_VALUES = 3_000_000  # values of a JSON file: an empty list, three bytes of the file, takes 64 bytes in memory
TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)  # a string of JSON; it never backtracks


def load_json(path: Path, error: type[UserError], limit: int = MAX_JSON) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises `error`, in one line that names the file, if it is missing, no regular file, larger, or not JSON.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise error(f"{path} cannot be read: not a file")  # a device never ends, and a pipe waits for ever
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as e:
        raise error(f"{path} cannot be read: {e.strerror or e}") from None
    except ValueError as e:  # a name with a zero byte
        raise error(f"{path} cannot be read: {e}") from None
    if len(content) > limit:
        raise error(f"{path} is larger than {limit:,} bytes, the most that is read")
    if _count_values(content) > MAX_VALUES and _count_values(TEXT.sub(b"", content)) > MAX_VALUES:
        raise error(f"{path} holds more than {MAX_VALUES:,} values, the most that are read")
    return parse_json(content, str(path), error)


def _count_values(content: bytes) -> int:
    """Return how many values a JSON text may hold at most, counted by the characters that begin or divide them."""
    return sum(content.count(mark) for mark in (b",", b"[", b"{"))


def parse_json(content: str | bytes, where: str, error: type[UserError]) -> Any:
    """Parse JSON. Raises `error`, in one line that begins with `where`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as e:  # ValueError: not JSON, not UTF-8, or a number of thousands of digits
        raise error(f"{where} is not JSON: {' '.join(str(e).split())[:300]}") from None


def load_object(path: Path, error: type[UserError], limit: int = MAX_JSON) -> dict[str, Any]:
    """Read a JSON file that holds an object, as `load_json` does. Raises `error` if it holds another value."""
    content = load_json(path, error, limit)
    if not isinstance(content, dict):
        raise error(f"{path} holds {type(content).__name__} in place of a JSON object")
    return content


def is_folder(path: Path) -> bool:
    """Whether a folder has this name; False, too, for a name that is too long or lies where you may not look."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises OSError for these


def is_file(path: Path) -> bool:
    """Whether a file has this name; False, too, for a name that is too long or lies where you may not look."""
    return os.path.isfile(path)  # noqa: PTH113 - as above


def is_there(path: Path) -> bool:
    """Whether a file or folder has this name; False, too, for a name that is too long or where you may not look."""
    return os.path.exists(path)  # noqa: PTH110 - as above
