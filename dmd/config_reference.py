"""`python -m dmd.config`: the reference of params.yaml, with each key's type, range, meaning and current value."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dmd.config import Params, load_params
from dmd.config_errors import fields, subgroup
from dmd.errors import ConfigError

WIDTH = 100  # columns of the plain text
LOWER = {"minimum": ">=", "exclusiveMinimum": ">"}
UPPER = {"maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Key:
    """One line of the reference."""

    name: str  # with dots, as presets and --set write it
    allowed: str
    meaning: str
    value: str


@dataclass(frozen=True)
class Section:
    """One group of params.yaml."""

    name: str
    title: str
    keys: list[Key]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dmd.config", description="Print the reference of params.yaml.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file whose values are shown")
    parser.add_argument("--markdown", action="store_true", help="print a table for each group")
    args = parser.parse_args(argv)
    try:
        sections = reference(load_params(args.params))
    except ConfigError as e:
        print(*(f"error: {line}" for line in str(e).splitlines()), sep="\n", file=sys.stderr)
        return 2
    try:
        print(to_markdown(sections) if args.markdown else to_text(sections), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has all that it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    return 0


def reference(params: Params) -> list[Section]:
    """Return a section for each group of params.yaml, in the order of the schema."""
    return list(_sections(Params, "", params.model_dump(by_alias=True)))


def _sections(group: type[BaseModel], prefix: str, values: Mapping[str, Any]) -> Iterator[Section]:
    """Yield a section for each group inside `group`, each followed by the sections of its own groups."""
    for name, field in fields(group).items():
        if (inner := subgroup(field)) is not None:
            title = field.description or " ".join((inner.__doc__ or "").split())
            yield Section(prefix + name, title, _keys(inner, f"{prefix}{name}.", values[name]))
            yield from _sections(inner, f"{prefix}{name}.", values[name])


def _keys(group: type[BaseModel], prefix: str, values: Mapping[str, Any]) -> list[Key]:
    """Return the keys of a group that hold values, not groups."""
    schema = group.model_json_schema()["properties"]
    return [
        Key(prefix + name, describe_type(schema[name]), field.description or "", _show(values[name]))
        for name, field in fields(group).items()
        if subgroup(field) is None
    ]


def _show(value: object) -> str:
    """Return a value as params.yaml spells it."""
    return value if isinstance(value, str) else json.dumps(value)


def describe_type(schema: Mapping[str, Any]) -> str:
    """Return the type and range of a JSON schema in words, such as `integer >= 1` or `fp32 | bf16`."""
    if "anyOf" in schema:
        return " | ".join(describe_type(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        length = f", at least {schema['minItems']}" if "minItems" in schema else ""
        return f"list of {describe_type(schema['items'])}{length}"
    bounds = [f"{sign} {schema[name]}" for name, sign in (LOWER | UPPER).items() if name in schema]
    multiple = f", multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    pattern = f" matching {schema['pattern']}" if "pattern" in schema else ""
    return f"{schema['type']} {' and '.join(bounds)}".rstrip() + multiple + pattern


def to_text(sections: list[Section]) -> str:
    """Return the reference as plain text."""
    lines = []
    for section in sections:
        lines += ["", *_wrap(f"{section.name}: {section.title}", "")]
        for key in section.keys:
            lines += _wrap(f"{key.name} = {key.value}   ({key.allowed})", "  ") + _wrap(key.meaning, "      ")
    return "\n".join(lines[1:])


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def to_markdown(sections: list[Section]) -> str:
    """Return the reference as a table for each group."""
    parts = []
    for section in sections:
        rows = [(f"`{key.name}`", f"`{key.value}`", key.allowed, key.meaning) for key in section.keys]
        table = ["| key | value | type and range | meaning |", "|---|---|---|---|", *map(_row, rows)]
        parts.append("\n".join([f"### `{section.name}`", "", section.title, *(["", *table] if rows else [])]))
    return "\n\n".join(parts)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
