"""A mkdocs hook: a page may link to any file of the repository, such as ../params.yaml, as it can on a git host.

The file is copied into the site under repository/, and the link points to the copy.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file of the repository that a page links to."""
    pages = [file for file in files.documentation_pages() if file.abs_src_path is not None]
    linked = {path for page in pages for _, path in LINK.findall(Path(str(page.abs_src_path)).read_text())}
    for path in sorted(linked):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point those links to the copies. A page of a subfolder goes up once more."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda m: f"]({up}repository/{m[2]})" if (ROOT / m[2]).is_file() else m[0], markdown)
