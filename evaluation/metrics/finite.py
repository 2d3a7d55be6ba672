"""Finds figures that are NaN or infinite before they are written."""

import math


def find_infinite_figure(content: object, key: str = "") -> str:
    """Return the dotted key of the first figure in the content of a JSON file that is not finite; empty if none."""
    if isinstance(content, float) and not math.isfinite(content):
        return key
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    below = (find_infinite_figure(value, f"{key}.{name}" if key else str(name)) for name, value in items)
    return next((found for found in below if found), "")
