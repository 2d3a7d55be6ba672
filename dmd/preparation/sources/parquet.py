"""Bounds on parquet files: sizes that stand in a file are checked before memory is given to them."""

import io
from pathlib import Path
from typing import Any

from dmd.errors import DataError

MAGIC = b"PAR1"  # at the end of every file, behind the length of the footer
TAIL = 8  # bytes of both
MAX_FOOTER = 2**24  # bytes; a footer takes many times its size in memory, and one of a thousand row groups is a tenth
MAX_CHUNK = 2**29  # bytes of a column in a row group, which are unpacked at once


def check_footer(file: Path) -> None:
    """Raise DataError if the footer is too long to be read, as that of a file with a million row groups is."""
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - TAIL), io.SEEK_SET)
        tail = content.read(TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail.endswith(MAGIC) and length > MAX_FOOTER:
        raise DataError(
            f"{file}: its footer has {length:,} bytes, more than the {MAX_FOOTER:,} that are read; "
            "write it again with larger row groups"
        )


def check_column(file: Path, metadata: Any, name: str) -> None:
    """Raise DataError if a column takes too much memory in one row group. metadata: pyarrow's of the file."""
    for k in range(metadata.num_row_groups):
        group = metadata.row_group(k)
        for i in range(group.num_columns):
            chunk = group.column(i)
            if chunk.path_in_schema == name and chunk.total_uncompressed_size > MAX_CHUNK:
                raise DataError(
                    f"{file}: row group {k} has {chunk.total_uncompressed_size:,} bytes in the column {name!r}, more "
                    f"than the {MAX_CHUNK:,} that are read; write it again with smaller row groups or shorter texts"
                )
