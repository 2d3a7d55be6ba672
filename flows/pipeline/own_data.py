"""Finds keys of params.yaml that hold the values of digits, the default data, although data.source is another one."""

from dmd.config import NONE, Params
from flows.registry.result import flatten

# The values are written out, since a user edits params.yaml itself.
DIGITS: dict[str, object] = {
    "data.caption": "a handwritten {name}",
    "data.size": 8,
    "data.validation": 150,
    "data.test": 300,
    "baseline.samples": 1797,
    "register.name": "digits-one-step",
}
UNKNOWN_LICENCE = "unknown"
HANDWRITTEN = ("digits", "mnist")  # sources for which the caption of digits is right


def find_values_of_digits(params: Params) -> list[str]:
    """Return the keys, with their values, that were chosen for digits; none for digits themselves."""
    if params.data.source == "digits":
        return []
    values = dict(flatten(params.model_dump(by_alias=True)))
    keys = [key for key, value in DIGITS.items() if values[key] == value]
    if params.data.source in HANDWRITTEN or params.data.captions != NONE or params.data.source == "prompts":
        keys = [key for key in keys if key != "data.caption"]
    return [f"{key} ({values[key]})" for key in keys]


def list_notes(params: Params) -> list[str]:
    """Return the notes of a dry run on keys that a user with other data should look at."""
    notes = []
    if keys := find_values_of_digits(params):
        notes.append(f"note: values of digits, not of your data: {', '.join(keys)}; docs/data.md lists such keys")
    if params.data.source != "digits" and params.register_.licence == UNKNOWN_LICENCE:
        notes.append("note: register.licence is unknown; set it to what your data and your teacher allow")
    return notes
