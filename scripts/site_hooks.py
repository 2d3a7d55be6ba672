"""Hooks of mkdocs: links from a page to files of the repository, and a page of all parameters, made from the schema."""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dmd.config import load_params  # noqa: E402
from dmd.config_reference import reference, to_markdown  # noqa: E402

LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)\)")
HEAD = """# Parameters

The reference of [params.yaml](../params.yaml), whose comments say why a default has its value.
`python -m dmd.config` prints the same.
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
    """Point the links to files of the repository at their copies in the site."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda m: f"]({up}repository/{m[2]})" if (ROOT / m[2]).is_file() else m[0], markdown)


def parameters() -> str:
    """The page of parameters: a table for each group of params.yaml."""
    return f"{HEAD}\n{to_markdown(reference(load_params(ROOT / 'params.yaml')))}\n"
