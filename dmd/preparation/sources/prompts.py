"""Prompts without images, for distillation without data: lines of text files, or a column of parquet files."""

from pathlib import Path

from dmd.config import DataConfig
from dmd.data.prompts import read_prompts
from dmd.errors import DataError
from dmd.preparation.sources.base import LazyPool, Pool, Record, Source, find_split, hash_files, import_optional
from dmd.preparation.sources.listing import count_endings, is_ignored
from dmd.preparation.sources.parquet import check_column, check_footer

ROWS_AT_ONCE = 1024  # of a parquet file


def prompts(cfg: DataConfig) -> Source:
    """List the prompts; a file's name says its split, as test.txt does. Empty lines are ignored."""
    folder = Path(cfg.folder)
    present = sorted(p for p in folder.iterdir() if p.is_file() and not is_ignored(p.name))
    files = [p for p in present if p.suffix.lower() in (".txt", ".parquet")]
    texts: dict[str, list[str]] = {}
    for file in files:
        lines = _read_column(file, cfg) if file.suffix.lower() == ".parquet" else read_prompts(file)
        # Of a text that is too long, enough is kept to show that it is.
        texts.setdefault(find_split(file.name), []).extend(line[: cfg.max_caption + 1] for line in lines if line)
    if not texts.get("train"):
        raise DataError(f"data.folder: {folder} has no .txt or .parquet file with prompts to train on")
    pools: dict[str, Pool] = {
        split: LazyPool(lines, lambda i, t=lines: Record(None, 0, t[i])) for split, lines in texts.items()
    }
    passed_by = count_endings(p.name for p in present if p not in files)
    return Source(pools, (), hash_files(files), passed_by=passed_by)


def _read_column(file: Path, cfg: DataConfig) -> list[str]:
    """Read the text column data.captions of a parquet file."""
    name = cfg.captions
    pyarrow = import_optional("pyarrow", "parquet")
    parquet = import_optional("pyarrow.parquet", "parquet")
    check_footer(file)
    try:
        # Compressed, a text that repeats takes no space; as a dictionary it takes none in memory.
        table = parquet.ParquetFile(file, read_dictionary=[name])
        if name not in table.schema_arrow.names:
            raise DataError(
                f"{file} has no column {name!r} (data.captions), only {', '.join(table.schema_arrow.names)}"
            )
        kind = table.schema_arrow.field(name).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise DataError(f"{file}: the column {name!r} (data.captions) is of type {kind}, not text")
        check_column(file, table.metadata, name)
        batches = table.iter_batches(ROWS_AT_ONCE, columns=[name])
        values = (value.as_py() for batch in batches for value in batch.column(0))
        return [" ".join(v.split())[: cfg.max_caption + 1] for v in values if v is not None]
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{file} cannot be read: {' '.join(str(e).split())}") from None
