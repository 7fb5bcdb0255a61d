"""Paths in the columns of CSV and Parquet files, as they are read."""

import io
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from vit_engine.errors import ImageError, UsageError, one_line, printable
from vit_engine.sources.downloads import is_url
from vit_engine.sources.files import open_regular, read_error
from vit_engine.sources.item import Item
from vit_engine.sources.stores import is_store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

LONGEST = 2**16
"""Bytes of the longest cell or line that is taken for a path or a URL."""

OUR_CSV = ("path", "label", "index", "score", "topk", "error", "error_code")
"""The header of the rows that are written as CSV, by which they are known when read again."""

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""What a spreadsheet would run, OWASP's list, however many apostrophes are before it.

Written, such a cell gets one more; read, it has one less.
"""

Row = tuple[int, bytes | ImageError | None]
"""A row's number, from 1, and its cell, None for none, or why it cannot be read."""

_SEPARATORS = (b",", b";", b"\t")  # Excel's, where the comma is the decimal point, and its copy
_LONGEST_HEADER = 2**20
_BLOCK = 2**16
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


def _opened(path: str) -> BinaryIO:
    try:
        return io.BufferedReader(open_regular(path))
    except OSError as e:
        raise read_error(e) from e


def _rows(path: str, file: BinaryIO, column: str) -> Iterator[Row]:
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


def _csv_rows(file: BinaryIO, column: str) -> Iterator[Row]:
    table, names = _csv(file, column)
    cells = table.cells(names.index(column), len(names))
    for row, cell in enumerate(cells, 1):
        if isinstance(cell, _DamagedError):
            yield row, ImageError("format", f"row {row} is not CSV: {cell}")
        elif cell and tuple(names) == OUR_CSV and FORMULA.match(os.fsdecode(cell)):
            yield row, cell.removeprefix(b"'")
        else:
            yield row, cell


def _csv(file: BinaryIO, column: str) -> tuple["_Csv", list[str]]:
    """Return a CSV file, after its header, by the first separator that shows the column."""
    headers, failure = [], None
    for separator in _SEPARATORS:
        table = _Csv(file, separator)
        try:
            names = _header(table)
        except _DamagedError as e:
            failure = failure or e
            continue
        if names.count(column) == 1:
            return table, names
        headers.append(names)
    if not headers:
        raise ImageError("format", f"is not CSV: {failure}") from failure
    raise _no_column(max(headers, key=lambda names: (names.count(column), len(names))), column)


def _header(table: "_Csv") -> list[str]:
    names = table.header()
    if not names:
        raise ImageError("empty", "is empty")
    if any(b"\0" in name for name in names):
        raise ImageError("format", "is not CSV in UTF-8: its first line has NULs, as UTF-16 has")
    return [name.decode("utf-8", "surrogateescape") for name in names]


class _DamagedError(Exception):
    """A record that is no CSV; the text says why."""


class _Csv:
    """A CSV file as it is read, after RFC 4180, in memory that does not grow with its cells.

    Lines end with LF, CRLF or CR; a byte order mark and blank lines are passed over. The csv module
    keeps a cell whole, up to a limit that is the whole process's, and takes the rest of a file into
    one cell where a quote is not closed: here the next record then begins with the next line.
    """

    def __init__(self, file: BinaryIO, separator: bytes) -> None:
        self._file, self._separator = file, separator
        self._special = re.compile(b"[\r\n" + re.escape(separator) + b"]")
        file.seek(0)
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        self._window, self._at = b"", 0

    def header(self) -> list[bytes]:
        """Return the first record's cells, none for an empty file; _DamagedError if it is none."""
        while self._peek():
            line = self._line()
            names = self._record(None, 0) if line is None else line.split(self._separator)
            if names != [b""]:
                return names
        return []

    def cells(self, wanted: int, columns: int) -> Iterator[bytes | _DamagedError | None]:
        """Yield the `wanted` cell of each record that follows, None where it has none.

        A cell over LONGEST bytes is cut, to more than LONGEST. A record of several lines with more
        cells than there are `columns` has a quote that is not closed.
        """
        while self._peek():
            line = self._line()
            if line is not None:
                cells = line.split(self._separator, wanted + 1)
                if line:
                    yield cells[wanted] if wanted < len(cells) else None
                continue
            start = self._file.tell() - len(self._window) + self._at
            try:
                cells = self._record(wanted, columns)
            except _DamagedError as e:
                yield e
                self._file.seek(start)
                self._window, self._at = b"", 0
                self._skip_line()
            else:
                yield cells[0] if cells else None

    def _peek(self) -> bytes:
        """Return the next byte, empty at the end of the file."""
        if self._at == len(self._window):
            self._window, self._at = self._file.read(_BLOCK), 0
        return self._window[self._at : self._at + 1]

    def _line(self) -> bytes | None:
        """Return the next line; None if it has quotes, or is long, and is to be read by cells."""
        end = _LINE_END.search(self._window, self._at)
        if end is None:
            self._window, self._at = self._window[self._at :] + self._file.read(_BLOCK), 0
            end = _LINE_END.search(self._window)
            if end is None:
                return None
        line = self._window[self._at : end.start()]
        if b'"' in line:
            return None
        self._at = end.end()
        return line

    def _record(self, wanted: int | None, columns: int) -> list[bytes]:
        """Read a record by cells; return the `wanted` one, if it is there, or with None all."""
        kept: list[bytes] = []
        size = count = 0
        lines = False
        while True:
            cell = bytearray() if wanted in (None, count) else None
            if self._peek() == b'"':
                lines |= self._quoted(cell)
                if self._peek() not in (self._separator, b"\r", b"\n", b""):
                    raise _DamagedError("something follows a closing quote")
            else:
                self._plain(cell)
            count += 1
            if cell is not None:
                kept.append(bytes(cell))
                size += len(cell) + 1
            if wanted is None and size > _LONGEST_HEADER:
                raise _DamagedError(f"its first line is longer than {_LONGEST_HEADER:,} bytes")
            if wanted is not None and lines and count > columns:
                raise _DamagedError("a quote is not closed")
            end = self._peek()
            self._at += len(end)
            if end == b"\r" and self._peek() == b"\n":
                self._at += 1
            if end != self._separator:
                return kept

    def _plain(self, kept: bytearray | None) -> None:
        while self._peek():
            end = self._special.search(self._window, self._at)
            self._take(end.start() if end else len(self._window), kept)
            if end:
                return

    def _quoted(self, kept: bytearray | None) -> bool:
        """Read a quoted cell; return whether it has several lines."""
        lines = False
        self._at += 1
        while self._peek():
            end = self._window.find(b'"', self._at)
            start, stop = self._at, end if end >= 0 else len(self._window)
            lines = lines or _LINE_END.search(self._window, start, stop) is not None
            self._take(stop, kept)
            if end < 0:
                continue
            self._at += 1
            if self._peek() != b'"':
                return lines
            self._take(self._at + 1, kept)  # two stand for one
        raise _DamagedError("a quote is not closed")

    def _take(self, end: int, kept: bytearray | None) -> None:
        if kept is not None and len(kept) <= LONGEST:
            kept += self._window[self._at : end]
        self._at = end

    def _skip_line(self) -> None:
        while self._peek():
            end = _LINE_END.search(self._window, self._at)
            self._at = end.end() if end else len(self._window)
            if end:
                return


_LINE_END = re.compile(rb"\r\n?|\n")


def _parquet_rows(file: BinaryIO, column: str) -> Iterator[Row]:
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


def _parquet(file: BinaryIO, column: str) -> "pq.ParquetFile":
    """Open a Parquet file whose column is of text; ImageError for any other."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        words = "is Parquet, which needs pyarrow; pip install 'vit-engine[parquet]'"
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
