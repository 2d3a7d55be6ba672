"""A table beside the images of a folder: captions and labels by file name, as csv or jsonl."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmd.errors import DataError

COLUMNS = ("caption", "label")
Row = dict[str, str]


def read_table(file: Path) -> dict[str, Row]:
    """Return the caption and label of each file name, "" if its row has none.

    A column that is in no row of the table is omitted. Raises DataError for a table that is not understood.
    """
    try:
        rows = list(_read_jsonl(file) if file.suffix == ".jsonl" else _read_csv(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"data.captions: {file} cannot be read: {e}") from None
    columns = [c for c in COLUMNS if any(c in row for _, row in rows)]
    if not columns:
        raise DataError(f"data.captions: {file} needs columns file_name and caption or label")
    table: dict[str, Row] = {}
    for number, row in rows:
        if not row.get("file_name"):
            raise DataError(f"{file}, line {number}: no file_name")
        name = Path(str(row["file_name"])).as_posix()
        if name in table:
            raise DataError(f"{file}, line {number}: {name} is named twice")
        table[name] = {c: " ".join(str("" if row.get(c) is None else row[c]).split()) for c in columns}
    return table


def _read_csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, strict=True)
        for row in reader:
            if None in row:
                raise DataError(
                    f"{file}, line {reader.line_num}: more fields than columns; a text with a comma needs quotes"
                )
            yield reader.line_num, row


def _read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows."""
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as e:  # ValueError: not JSON, or a number of thousands of digits
                raise DataError(f"{file}, line {number}: not JSON: {e}") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: not a JSON object")
            for key in ("file_name", *COLUMNS):
                if isinstance(row.get(key), (bool, float, list, dict)):
                    raise DataError(f"{file}, line {number}: {key} is {json.dumps(row[key])}, not text")
            yield number, row
