"""What is wrong in params.yaml, told by the schema itself: the key, its value, what is allowed, what was meant."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel


def explain(error: Any, root: type[BaseModel]) -> str:
    """One line for an error of pydantic: the key below the group `root`, its value, and what is allowed."""
    loc = [part for part in error["loc"] if isinstance(part, int) or _field_at(root, error["loc"], part) is not None]
    key = ".".join(map(str, loc))
    match error["type"]:
        case "extra_forbidden":
            siblings = keys(_group_at(root, error["loc"][:-1]))
            name = str(error["loc"][-1])
            close = difflib.get_close_matches(name, siblings, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return f"{'.'.join(map(str, error['loc']))}: unknown key; {hint}allowed: {', '.join(siblings)}"
        case "missing":
            return f"{'.'.join(map(str, error['loc']))}: missing; {_allowed(root, error['loc'])}"
        case "value_error":
            return f"{key + '.' if key else ''}{error['ctx']['error']}"
        case "model_type":
            return f"{key}: {error['input']!r} is not allowed; {_allowed(root, error['loc'])}"
        case _:
            return f"{key}: {error['input']!r} is not allowed: {error['msg'].lower()}; {_allowed(root, error['loc'])}"


def _group_at(root: type[BaseModel], loc: tuple) -> type[BaseModel]:
    """The group that keys lead to; a key that is none of a group's own (pydantic names union members) is passed by."""
    group = root
    for part in loc:
        field = _fields(group).get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            group = field.annotation
    return group


def _field_at(root: type[BaseModel], loc: tuple, part: object) -> Any:
    """The field of that name, looked for in the group that holds it."""
    return _fields(_group_at(root, loc[: loc.index(part)])).get(str(part))


def _fields(group: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in group.model_fields.items()}


def keys(group: type[BaseModel]) -> list[str]:
    """Its keys as the file has them."""
    return list(_fields(group))


def _allowed(root: type[BaseModel], loc: tuple) -> str:
    """The description of a field, and its choices where it has them."""
    field = next((f for part in reversed(loc) if (f := _field_at(root, loc, part)) is not None), None)
    if field is None:
        return "see dmd/config.py"
    if field.description is None:
        return f"it is a group with the keys {', '.join(keys(_group_at(root, loc)))}"
    choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
    return f"meaning: {field.description}" + (f" (one of {', '.join(choices)})" if choices else "")
