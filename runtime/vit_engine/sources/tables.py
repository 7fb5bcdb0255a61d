"""Paths in the columns of CSV and Parquet files, as they are read."""

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vit_engine.errors import ImageError, UsageError, one_line, printable
from vit_engine.machine.installation import pip_install
from vit_engine.sources.csv_rows import csv_rows
from vit_engine.sources.downloads import is_url
from vit_engine.sources.files import open_regular, read_error
from vit_engine.sources.item import Item
from vit_engine.sources.stores import is_store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

LONGEST = 2**16
"""Bytes of the longest cell or line that is taken for a path or a URL."""

Row = tuple[int, bytes | ImageError | None]
"""A row's number, from 1, and its cell, None for none, or why it cannot be read."""

_ROWS_AT_ONCE = 64  # of Parquet, where a few bytes may stand for many long cells


def check_table(path: str, column: str) -> None:
    """Raise UsageError unless the file is there and has rows with the column, of text."""
    try:
        with _opened(path) as file:
            if next(_rows(path, file, column), None) is None:
                raise ImageError("empty", "has no rows")
    except ImageError as e:
        raise UsageError(f"{printable(path)}: {e}") from e


def items_from_table(path: str, column: str) -> Iterator[Item]:
    """Yield the paths and URLs of a column, one item a row, an empty cell too.

    A path is relative to the table, or else as it is given.

    What cannot be read is an item with its error: a row, or rows that are damaged together, or the
    table.
    """
    row = 0
    try:
        with _opened(path) as file:
            for row, cell in _rows(path, file, column):
                place = f"{path}:{row}"
                if isinstance(cell, ImageError):
                    yield Item(place, error=cell)
                elif not cell:
                    yield Item(place, error=ImageError("missing", f"row {row} has no path"))
                else:
                    yield _beside(item_from_name(cell, place), path)
        if not row:
            raise ImageError("empty", "has no rows")
    except ImageError as e:
        yield Item(path, error=e)
    except OSError as e:
        words = f"cannot be read after row {row}: {e.strerror or one_line(e)}"
        yield Item(path, error=ImageError("truncated", words))


def item_from_name(name: bytes, place: str) -> Item:
    """Return the item of a path or URL in a table or a list; one that can be none is at `place`."""
    if len(name) > LONGEST:
        words = f"is longer than {LONGEST:,} bytes, which no path or URL is"
        return Item(place, error=ImageError("too_large", words))
    if b"\0" in name:
        return Item(place, error=ImageError("missing", "has a NUL, which no path or URL has"))
    return Item(os.fsdecode(name))


def resolved(name: str, table: str) -> str:
    """Return where a path in a table lies: relative to the table, or else as it is given.

    UsageError where both are there and are not one.
    """
    beside = os.path.join(os.path.dirname(table), name)  # noqa: PTH118, PTH120  as it is spelled
    if beside == name or is_url(name) or is_store(name) or not os.path.lexists(beside):
        return name
    if os.path.lexists(name) and os.path.realpath(name) != os.path.realpath(beside):
        raise UsageError(
            f"{printable(name)} is there twice, beside the table ({printable(beside)}) and in the "
            "current folder; write it with all of its folders"
        )
    return beside


def _beside(item: Item, table: str) -> Item:
    if item.error is not None:
        return item
    try:
        return Item(resolved(item.path, table))
    except UsageError as e:
        return Item(item.path, error=ImageError("missing", str(e)))


def _opened(path: str) -> io.BufferedReader:
    try:
        return io.BufferedReader(open_regular(path))
    except OSError as e:
        raise read_error(e) from e


def _rows(path: str, file: io.BufferedReader, column: str) -> Iterator[Row]:
    """Yield the cells of a column; ImageError, with the first, for a table that is none."""
    if path.lower().endswith(".parquet"):
        return _parquet_rows(file, column)
    return _csv_rows(file, column)


def _no_column(names: list[str], column: str) -> ImageError:
    if column in names:
        words = f"has {names.count(column)} columns called {column!r}; rename all but one"
    else:
        listed = one_line(", ".join(map(repr, names)))
        words = f"has no column {column!r} but {listed}; name the one with the paths by --column"
    return ImageError("format", words)


def _csv_rows(file: io.BufferedReader, column: str) -> Iterator[Row]:
    names, rows = csv_rows(file, column)
    if names.count(column) != 1:
        raise _no_column(names, column)
    wanted = names.index(column)
    for number, row in rows:
        if isinstance(row, ImageError):
            yield number, row
        else:
            cell = row[wanted] if wanted < len(row) else ""
            yield number, cell.encode("utf-8", "surrogateescape")


def _parquet_rows(file: io.BufferedReader, column: str) -> Iterator[Row]:
    """Yield the cells of each row group; one that is damaged costs its own rows alone.

    `raw` has the bytes of a name that is not UTF-8 where our own rows or manifest are the table:
    beside it `path` has those bytes as `printable` shows them.
    """
    table = _parquet(file, column)
    import pyarrow as pa

    names = [column]
    raw = table.schema_arrow.get_field_index("raw")
    if column == "path" and raw >= 0 and table.schema_arrow.field(raw).type == pa.binary():
        names.append("raw")
    before = 0
    for group in range(table.num_row_groups):
        row, after = before, before + table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(_ROWS_AT_ONCE, [group], names, use_threads=False):
                for cells in zip(*(_bytes(batch.column(name)) for name in names), strict=True):
                    row += 1
                    yield row, _ours(*cells)
        except (pa.ArrowException, OSError) as e:
            words = f"rows {row + 1} to {after} cannot be read: {one_line(e)}"
            yield row + 1, ImageError("decode", words)
        before = after


def _ours(cell: bytes | None, raw: bytes | None = None) -> bytes | None:
    if raw is None or cell is None or printable(os.fsdecode(raw)).encode() != cell:
        return cell
    return raw


def _parquet(file: io.BufferedReader, column: str) -> "pq.ParquetFile":
    """Open a Parquet file whose column is of text; ImageError for any other."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        words = f"is Parquet, which needs pyarrow; {pip_install('parquet')}"
        raise ImageError("format", words) from e
    try:
        table = pq.ParquetFile(
            file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True
        )
        names = [str(name) for name in table.schema_arrow.names]
    except (pa.ArrowException, OSError, ValueError) as e:  # a column's name may be no UTF-8
        raise ImageError("format", f"is not Parquet ({one_line(e)})") from e
    if names.count(column) != 1:
        raise _no_column(names, column)
    found = table.schema_arrow.field(names.index(column)).type
    if not _is_text(found):
        raise ImageError("format", f"column {column!r} is {one_line(found)}, paths are strings")
    return table


def _is_text(found: Any) -> bool:
    """Tell whether a column's type is of strings, or of bytes, as some write strings."""
    from pyarrow import types

    plain = found.value_type if types.is_dictionary(found) else found
    return any(
        is_one(plain)
        for is_one in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_binary,
            types.is_large_binary,
            types.is_binary_view,
        )
    )


def _bytes(column: Any) -> list[bytes | None]:
    """Return a column's cells as bytes, which need not be UTF-8 whatever its type says."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    cells: list[bytes | None] = column.cast(pa.binary()).to_pylist()
    return cells
