"""Prompts without images, for distillation without data: lines of text files, a column of parquet files."""

from pathlib import Path

from dmd.config import DataConfig
from dmd.errors import DataError
from dmd.preparation.sources.base import LazyPool, Pool, Record, Source, identity, optional, split_of


def prompts(cfg: DataConfig) -> Source:
    """A file's name says its split, as test.txt does; empty lines are passed by."""
    folder = Path(cfg.folder)
    files = sorted(p for p in folder.iterdir() if p.suffix in (".txt", ".parquet") and not p.name.startswith("."))
    texts: dict[str, list[str]] = {}
    for file in files:
        lines = _column(file, cfg.captions) if file.suffix == ".parquet" else _lines(file)
        texts.setdefault(split_of(file.name), []).extend(t for t in lines if t)
    if not texts.get("train"):
        raise DataError(f"data.folder: {folder} has no .txt or .parquet file with prompts to train on")
    pools: dict[str, Pool] = {
        split: LazyPool(found, lambda i, t=found: Record(None, 0, t[i])) for split, found in texts.items()
    }
    return Source(pools, (), identity(files))


def _lines(file: Path) -> list[str]:
    try:
        return [" ".join(line.split()) for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as e:
        raise DataError(f"{file} is not UTF-8 text: {e}") from None


def _column(file: Path, name: str) -> list[str]:
    """A parquet file's column of text."""
    pyarrow = optional("pyarrow", "parquet")
    parquet = optional("pyarrow.parquet", "parquet")
    try:
        table = parquet.ParquetFile(file)
        if name not in table.schema_arrow.names:
            raise DataError(
                f"{file} has no column {name!r} (data.captions), only {', '.join(table.schema_arrow.names)}"
            )
        kind = table.schema_arrow.field(name).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise DataError(f"{file}: the column {name!r} (data.captions) is of type {kind}, not text")
        batches = table.iter_batches(columns=[name])
        return [" ".join(v.split()) for b in batches for v in b.column(0).to_pylist() if v is not None]
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{file} cannot be read: {' '.join(str(e).split())}") from None
