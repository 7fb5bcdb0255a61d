"""Paths in the columns of CSV and Parquet files, as they are read."""

import io
import os
from collections.abc import Iterator

from vit_engine.errors import ImageError, UsageError, one_line, printable
from vit_engine.sources.files import open_regular, read_error
from vit_engine.sources.sample import Sample
from vit_engine.sources.tables.csv_rows import csv_rows
from vit_engine.sources.tables.parquet_rows import Cell, parquet_cells
from vit_engine.sources.urls import bytes_from_data_uri, is_remote

LONGEST = 2**16
"""Bytes of the longest cell or line that is taken for a path or a URL."""

LONGEST_DATA_URI = 2**24
"""Bytes of the longest that is taken for the image itself."""


def check_table(path: str, column: str) -> None:
    """Raise UsageError unless the file is there and has rows with the column, of text."""
    try:
        with _opened(path) as file:
            if next(_cells(path, file, column), None) is None:
                raise ImageError("empty", "has no rows")
    except ImageError as e:
        raise UsageError(f"{printable(path)}: {e}") from e


def items_from_table(path: str, column: str) -> Iterator[Sample]:
    """Yield the paths and URLs of a column, one item a row, an empty cell too.

    A path is relative to the table, or else as it is given. What cannot be read is an item with its
    error: a row, or rows that are damaged together, or the table.
    """
    row = 0
    try:
        with _opened(path) as file:
            for row, cell in _cells(path, file, column):
                place = f"{path}:{row}"
                if isinstance(cell, ImageError):
                    yield Sample(place, error=cell)
                elif not cell:
                    yield Sample(place, error=ImageError("missing", f"row {row} has no path"))
                else:
                    yield _beside(item_from_name(cell, place), path)
        if not row:
            raise ImageError("empty", "has no rows")
    except ImageError as e:
        yield Sample(path, error=e)
    except OSError as e:
        message = f"cannot be read after row {row}: {e.strerror or one_line(e)}"
        yield Sample(path, error=ImageError("truncated", message))


def item_from_name(name: bytes, place: str) -> Sample:
    """Return the item of a path or URL in a table or a list; one that can be none is at `place`.

    So is the image that a data URI holds.
    """
    if LONGEST < longest(name) >= len(name):
        try:
            return Sample(place, data=bytes_from_data_uri(name))
        except ValueError as e:
            message = f"is a data URI that cannot be read: {one_line(e)}"
            return Sample(place, error=ImageError("decode", message))
    if len(name) > longest(name):
        message = f"is longer than {longest(name):,} bytes, which no path or URL is"
        return Sample(place, error=ImageError("too_large", message))
    if b"\0" in name:
        return Sample(place, error=ImageError("missing", "has a NUL, which no path or URL has"))
    return Sample(os.fsdecode(name))


def longest(name: bytes) -> int:
    """Return how many bytes what begins like this may have."""
    return LONGEST_DATA_URI if name[:5].lower() == b"data:" else LONGEST


def resolved(name: str, table: str) -> str:
    """Return where a path in a table lies: relative to the table, or else as it is given.

    UsageError where both are there and are not one.
    """
    beside = os.path.join(os.path.dirname(table), name)  # noqa: PTH118, PTH120  as it is spelled
    if beside == name or is_remote(name) or not os.path.lexists(beside):
        return name
    if os.path.lexists(name) and os.path.realpath(name) != os.path.realpath(beside):
        raise UsageError(
            f"{printable(name)} is there twice, beside the table ({printable(beside)}) and in the "
            "current folder; write it with all of its folders"
        )
    return beside


def _beside(item: Sample, table: str) -> Sample:
    if item.error is not None or item.data is not None:
        return item
    try:
        return Sample(resolved(item.path, table))
    except UsageError as e:
        return Sample(item.path, error=ImageError("missing", str(e)))


def _opened(path: str) -> io.BufferedReader:
    try:
        return io.BufferedReader(open_regular(path))
    except OSError as e:
        raise read_error(e) from e


def _cells(path: str, file: io.BufferedReader, column: str) -> Iterator[Cell]:
    """Yield the cells of a column; ImageError, with the first, for a table that is none."""
    rows: Iterator[tuple[int, list[str] | bytes | ImageError | None]]
    if path.lower().endswith(".parquet"):
        names, rows = parquet_cells(file, column)
    else:
        names, rows = csv_rows(file, column)
    if names.count(column) > 1:
        message = f"has {names.count(column)} columns called {column!r}; rename all but one"
        raise ImageError("format", message)
    if column not in names:
        listed = one_line(", ".join(map(repr, names)))
        message = f"has no column {column!r} but {listed}; name the one with the paths by --column"
        raise ImageError("format", message)
    wanted = names.index(column)
    for number, found in rows:
        if not isinstance(found, list):
            yield number, found
        elif wanted < len(found):
            yield number, found[wanted].encode("utf-8", "surrogateescape")
        else:
            yield number, None
