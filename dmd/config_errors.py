"""One line for each mistake in params.yaml: the key, its value, and what the schema allows."""

import difflib
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dmd.errors import quote

SHOWN = 200  # characters of a value in a message
Location = tuple[int | str, ...]  # keys and list indices from the root to a value


def explain(error: ErrorDetails, root: type[BaseModel]) -> str:
    """Return one line for an error of pydantic: the key below the group `root`, its value, and what is allowed."""
    loc = error["loc"]
    path = ".".join(map(quote, loc))
    # Pydantic also names members of a union, which are not keys of the file.
    key = ".".join(quote(part) for part in loc if isinstance(part, int) or _find_field(root, loc, part) is not None)
    match error["type"]:
        case "extra_forbidden":
            siblings = keys(_find_group(root, loc[:-1]))
            close = difflib.get_close_matches(str(loc[-1]), siblings, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return f"{path}: unknown key; {hint}allowed: {', '.join(siblings)}"
        case "missing":
            return f"{path}: missing; {_allowed(root, loc)}"
        case "value_error":  # raised by a group's own check, whose message begins with the key
            return f"{key + '.' if key else ''}{error.get('ctx', {})['error']}"
        case "former_value":
            return f"{key}: {error['msg']}"
        case "model_type":
            return f"{key}: {_show(error['input'])} is not allowed; {_allowed(root, loc)}"
        case _:
            return f"{key}: {_show(error['input'])} is not allowed: {error['msg'].lower()}; {_allowed(root, loc)}"


def _show(value: object) -> str:
    """Return a value as Python writes it, cut after SHOWN characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."


def fields(group: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a group by their keys in the file."""
    return {field.alias or name: field for name, field in group.model_fields.items()}


def keys(group: type[BaseModel]) -> list[str]:
    """Return the keys of a group as the file spells them."""
    return list(fields(group))


def subgroup(field: FieldInfo) -> type[BaseModel] | None:
    """Return the group that a field holds, or None if the field holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _find_group(root: type[BaseModel], loc: Location) -> type[BaseModel]:
    """Return the innermost group that contains `loc`."""
    group = root
    for part in loc:
        field = fields(group).get(str(part))
        group = (field and subgroup(field)) or group
    return group


def _find_field(root: type[BaseModel], loc: Location, part: int | str) -> FieldInfo | None:
    """Return the field that `part` of a location names, or None."""
    return fields(_find_group(root, loc[: loc.index(part)])).get(str(part))


def _allowed(root: type[BaseModel], loc: Location) -> str:
    """Return the meaning of the innermost field of a location, with its choices."""
    field = next((f for part in reversed(loc) if (f := _find_field(root, loc, part)) is not None), None)
    if field is None:
        return "see python -m dmd.config"
    if field.description is None:
        return f"it is a group with the keys {', '.join(keys(_find_group(root, loc)))}"
    choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
    return f"meaning: {field.description}" + (f" (one of {', '.join(choices)})" if choices else "")
