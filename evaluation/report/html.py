"""Pages from the templates of this folder: self-contained HTML without scripts or requests to any host."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Card:
    """A headline figure with an explanation; the tone (good, even or bad) selects its colour."""

    value: str
    label: str
    text: str
    tone: str


@dataclass(frozen=True)
class Picture:
    """A picture inside the page, with its caption."""

    caption: str
    src: Markup


def embed_png(data: bytes) -> Markup:
    """Data URL of a PNG, as the source of an <img>."""
    return Markup("data:image/png;base64," + base64.b64encode(data).decode())


def render_template(template: str, **values: Any) -> str:
    """Fill a template. Raises UndefinedError if a value that the template uses is missing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
