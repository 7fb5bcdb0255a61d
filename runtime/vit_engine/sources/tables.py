"""Paths in the columns of CSV and Parquet files, as they are read."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.sources.files import check_regular
from vit_engine.sources.item import Item


def check_column(path: str, column: str) -> None:
    """Raise UsageError unless the file is there and has the column."""
    try:
        check_regular(Path(path).stat())
        columns = _parquet_columns(path) if _is_parquet(path) else _csv_columns(path)
    except OSError as e:
        raise UsageError(f"{printable(path)}: cannot be read ({e.strerror or e})") from e
    except ImageError as e:
        raise UsageError(f"{printable(path)} {e}") from e
    except (csv.Error, UnicodeDecodeError) as e:
        raise UsageError(f"{printable(path)}: is not CSV ({e})") from e
    if column not in columns:
        raise UsageError(
            f"{printable(path)}: has no column {column!r} but {', '.join(map(repr, columns))}; "
            "name the one with the paths by --column"
        )


def items_from_table(path: str, column: str) -> Iterator[Item]:
    """Yield the paths and URLs of a column, one item a row, an empty cell too."""
    cells = _parquet_cells(path, column) if _is_parquet(path) else _csv_cells(path, column)
    for row, cell in enumerate(cells, 1):
        if cell:
            yield Item(cell)
        else:
            yield Item(f"{path}:{row}", error=ImageError("missing", f"row {row} has no path"))


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _csv_columns(path: str) -> list[str]:
    with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return next(csv.reader(file), [])


def _csv_cells(path: str, column: str) -> Iterator[str | None]:
    with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            for row in csv.DictReader(file):
                yield row[column]
        except csv.Error as e:
            raise UsageError(f"{printable(path)}: is not CSV ({e})") from e


def _parquet_columns(path: str) -> list[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UsageError("Parquet needs pyarrow; pip install 'vit-engine[parquet]'") from e
    try:
        return [str(name) for name in pq.read_schema(path).names]
    except pa.ArrowException as e:
        raise UsageError(f"{printable(path)}: is not Parquet ({e})") from e


def _parquet_cells(path: str, column: str) -> Iterator[str | None]:
    """`raw` has the bytes of a name that is not UTF-8, where our own rows are the table."""
    import pyarrow.parquet as pq

    names = [name for name in (column, "raw") if name in _parquet_columns(path)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                raw, cell = row.get("raw"), row[column]
                yield os.fsdecode(raw) if raw is not None else cell
