"""Hooks of mkdocs: links from a page to files of the repository, and a page of all parameters made from the schema."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dmd.config import Params  # noqa: E402

LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)\)")
HEAD = """# Parameters

Every key of `params.yaml`, with its default and its meaning from the schema (`dmd/config.py`). The comments of
[params.yaml](../params.yaml) say why a default has its value.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the page of parameters, and every file of the repository that a page links to.

    A page links to ../params.yaml, as it can on a git host; the site has a copy under repository/.
    """
    files.append(File.generated(config, "parameters.md", content=parameters()))
    pages = [file for file in files.documentation_pages() if file.abs_src_path is not None]
    texts = [HEAD, *(Path(str(page.abs_src_path)).read_text() for page in pages)]
    linked = {path for text in texts for _, path in LINK.findall(text)}
    for path in sorted(linked):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point those links to the copies."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda m: f"]({up}repository/{m[2]})" if (ROOT / m[2]).is_file() else m[0], markdown)


def parameters() -> str:
    """The page: a table for each group of params.yaml."""
    defaults = YAML(typ="safe").load(ROOT / "params.yaml")
    parts = [HEAD]
    for name, field in Params.model_fields.items():
        key = field.alias or name
        parts.append(f"## {key}\n\n| key | default | meaning |\n|---|---|---|")
        group: Any = field.annotation
        parts += [f"| `{k}` | `{v}` | {text} |" for k, v, text in leaves(group, defaults[key], "")]
        parts.append("")
    return "\n".join(parts)


def leaves(group: type[BaseModel], defaults: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Key, default and meaning of each parameter of a group, nested groups included."""
    for name, field in group.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, defaults[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", defaults[name], (field.description or "").replace("|", "\\|")
