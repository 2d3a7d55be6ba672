"""The cost of a generator's training, which stage `train` records for the evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmd.storage.files import write_text

FILE = "cost.json"


def write_cost(turns: int, images: Mapping[str, int], folder: Path) -> Path:
    """Write the generator's turns and the images in the turns of each network; return the file."""
    others = {network: count for network, count in images.items() if network != "generator"}
    content = {"turns": turns, "images": images["generator"], "images_of": others}
    write_text(folder / FILE, json.dumps(content, indent=2) + "\n")
    return folder / FILE


def read_cost(folder: Path) -> dict[str, Any] | None:
    """The content that `write_cost` wrote; None if the folder is older than this record."""
    file = folder / FILE
    return json.loads(file.read_bytes()) if file.is_file() else None
