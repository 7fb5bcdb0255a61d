"""One column of a Parquet file, read a row at a time by pyarrow."""

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.machine.installation import pip_install

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Cell = tuple[int, bytes | ImageError | None]
"""A row's number, from 1, and its cell, None for null, or why it cannot be read."""

_TEXT = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
_ROWS_AT_ONCE = 64  # a few bytes may stand for many long cells


def parquet_cells(file: io.BufferedReader, column: str) -> tuple[list[str], Iterator[Cell]]:
    """Return the names of the columns of a Parquet file, and the cells of one of text or bytes.

    `raw` has the bytes of a name that is not UTF-8 where our own rows or manifest are the table:
    beside it `path` has those bytes as `printable` shows them.

    ImageError for what is not Parquet, and with the first cell for a column of another type. A row
    group that is damaged costs its own rows alone: one error, with the number of the first of them.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        message = f"is Parquet, which needs pyarrow; {pip_install('parquet')}"
        raise ImageError("format", message) from e
    try:
        table = pq.ParquetFile(
            file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True
        )
        names = [str(name) for name in table.schema_arrow.names]
    except (pa.ArrowException, OSError, ValueError) as e:  # a column's name may be no UTF-8
        raise ImageError("format", f"is not Parquet ({one_line(e)})") from e
    return names, _cells(table, column)


def _cells(table: "pq.ParquetFile", column: str) -> Iterator[Cell]:
    import pyarrow as pa

    schema = table.schema_arrow
    found = schema.field(column).type
    if str(found.value_type if pa.types.is_dictionary(found) else found) not in _TEXT:
        raise ImageError("format", f"column {column!r} is {one_line(found)}, paths are strings")
    columns = [column]
    raw = schema.get_field_index("raw")
    if column == "path" and raw >= 0 and schema.field(raw).type == pa.binary():
        columns.append("raw")
    before = 0
    for group in range(table.num_row_groups):
        row, after = before, before + table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(_ROWS_AT_ONCE, [group], columns, use_threads=False):
                for cells in zip(*(_bytes(batch.column(name)) for name in columns), strict=True):
                    row += 1
                    yield row, _name_on_disk(*cells)
        except (pa.ArrowException, OSError) as e:
            message = f"rows {row + 1} to {after} cannot be read: {one_line(e)}"
            yield row + 1, ImageError("decode", message)
        before = after


def _bytes(column: Any) -> list[bytes | None]:
    """Return a column's cells as bytes, which need not be UTF-8 whatever its type says."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    cells: list[bytes | None] = column.cast(pa.binary()).to_pylist()
    return cells


def _name_on_disk(path: bytes | None, raw: bytes | None = None) -> bytes | None:
    if raw is None or path is None or printable(os.fsdecode(raw)).encode() != path:
        return path
    return raw
