"""A table beside the images of a folder: captions and labels by file name, as csv or jsonl."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmd.errors import DataError
from dmd.storage.text_files import read_lines
from dmd.yaml_files import is_file

NAME, CAPTION = "file_name", "caption"
COLUMNS = (CAPTION, "label")
Row = dict[str, str]


def read_table(file: Path, longest: int) -> dict[str, Row]:
    """Return the caption and label of each file name, "" if its row has none.

    longest: characters of a caption; of a longer one, enough is kept to show that it is. A column that is in no row of
    the table is omitted. Raises DataError for a table that is not understood.
    """
    if not is_file(file):
        raise DataError(f"data.captions: {file} is not a file; name one in data.folder")
    try:
        rows = [(number, _choose(row)) for number, row in (_read_jsonl if file.suffix == ".jsonl" else _read_csv)(file)]
    except csv.Error as e:
        raise DataError(f"data.captions: {file} cannot be read: {e}") from None
    columns = [c for c in COLUMNS if any(c in row for _, row in rows)]
    if not columns:
        raise DataError(f"data.captions: {file} needs columns file_name and caption or label")
    table: dict[str, Row] = {}
    for number, row in rows:
        if not row.get(NAME):
            raise DataError(f"{file}, line {number}: no file_name")
        name = Path(str(row[NAME])).as_posix()
        if name in table:
            raise DataError(f"{file}, line {number}: {name} is named twice")
        table[name] = {c: " ".join(str("" if row.get(c) is None else row[c]).split()) for c in columns}
        if CAPTION in columns:
            table[name][CAPTION] = table[name][CAPTION][: longest + 1]
    return table


def _choose(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that are read: others may be many times as large."""
    return {column: row[column] for column in (NAME, *COLUMNS) if column in row}


def _read_csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows."""
    reader = csv.DictReader(read_lines(file, newline=""), strict=True)
    for row in reader:
        if None in row:
            raise DataError(
                f"{file}, line {reader.line_num}: more fields than columns; a text with a comma needs quotes"
            )
        yield reader.line_num, row


def _read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows."""
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:  # ValueError: not JSON, or a number of thousands of digits
            raise DataError(f"{file}, line {number}: not JSON: {e}") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: not a JSON object")
        for key in (NAME, *COLUMNS):
            if isinstance(row.get(key), (bool, float, list, dict)):
                raise DataError(f"{file}, line {number}: {key} is {json.dumps(row[key])}, not text")
        yield number, row
