"""`python scripts/notebook.py`: write docs/python_api.ipynb from docs/python_api.md; `--check` only compares them.

The page is the source: its text and its Python blocks become the cells, so that page and notebook cannot differ.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = ROOT / "docs/python_api.md", ROOT / "docs/python_api.ipynb"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
SETUP = """import os
import sys
from pathlib import Path

if not Path("dmd").is_dir():  # Jupyter starts in the folder of the notebook
    os.chdir("..")
sys.path.insert(0, str(Path.cwd()))
"""


def make_notebook(page: str) -> dict[str, Any]:
    """The notebook of a page: a cell for its set-up, then one for each text and each Python block, without outputs."""
    parts = BLOCK.split(page)  # text, code, text, code, ..., text
    cells = [_cell("code", SETUP)]
    cells += [_cell("code" if i % 2 else "markdown", part) for i, part in enumerate(parts) if part.strip()]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "metadata": {}, "source": source.strip("\n").splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main() -> int:
    """Write the notebook, or compare it; returns 1 if it is out of date."""
    text = json.dumps(make_notebook(PAGE.read_text()), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        NOTEBOOK.write_text(text)
    elif not NOTEBOOK.exists() or NOTEBOOK.read_text() != text:
        print(f"{NOTEBOOK.relative_to(ROOT)} differs from {PAGE.name}: run python scripts/notebook.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
