"""Predictions as rows: JSON lines, CSV, a table to read, or Parquet."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_engine.errors import UsageError, printable
from vit_engine.machine.installation import pip_install
from vit_engine.outputs import csv_dialect
from vit_engine.outputs.kinds import OutputKind, Result
from vit_engine.rows.text_table import Table

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "jsonl", "csv", "parquet")
"""The names of the formats."""

_ROWS_A_GROUP = 65_536
_LONGEST_ROW = 2**24  # bytes: the labels of a row are some hundred bytes each


@dataclass(frozen=True)
class Format:
    """How rows are written: a header, then a line for each.

    `convert` writes the final file (second path) from the file of those lines (first path), for a
    format that is not made of lines; with None the lines are the format.
    """

    line: Callable[[Result], bytes]
    header: bytes = b""
    convert: Callable[[Path, Path], None] | None = None


def jsonl_line(prediction: Result) -> bytes:
    """Return one JSON document; bytes of a path that are not UTF-8 are lone surrogates in it."""
    return json.dumps(prediction.to_dict()).encode() + b"\n"


def csv_line(prediction: Result) -> bytes:
    """Return one CSV record: lists are JSON within their cell, a path has the bytes it has on disk.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    return _csv(_cell(value, prediction) for value in prediction.to_dict().values())


def _cell(value: Any, prediction: Result) -> Any:
    if isinstance(value, list):
        return json.dumps(value) if prediction.error is None else None
    return csv_dialect.escaped(value) if isinstance(value, str) else value


def parquet_from_jsonl(output: OutputKind, lines: Path, path: Path) -> None:
    """Write the rows of a JSON Lines file as Parquet, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(output)
    with lines.open("rb") as file, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := [json.loads(line) for line in islice(file, _ROWS_A_GROUP)]:
            rows = [row | arrow_path(row["path"]) for row in group]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def arrow_path(path: str) -> dict[str, Any]:
    """Return the columns `path` and `raw` of a path.

    Of a path that is not UTF-8, `raw` has the bytes and `path` shows them escaped; else `raw` is
    None.
    """
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8"), "raw": None}
    except UnicodeDecodeError:
        return {"path": printable(path), "raw": raw}


def columns_of(output: OutputKind) -> tuple[str, ...]:
    """Return the names of a row's columns, the same in every format."""
    return ("path", *output.columns, "error", "error_code")


def format_from_name(
    name: str, output: OutputKind, *, width: int | None = None, colour: bool = False
) -> Format:
    """Return the format of a name in FORMATS for rows of a kind; `width` and `colour` are Table's.

    UsageError for Parquet where pyarrow is not installed.
    """
    if name == "table":
        return Format(Table(output, width, colour).line)
    if name == "csv":
        return Format(csv_line, header=_csv(columns_of(output)))
    if name == "jsonl":
        return Format(jsonl_line)
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as e:
        raise UsageError(
            f"Parquet needs pyarrow; {pip_install('parquet')}, or use --format jsonl"
        ) from e
    return Format(jsonl_line, convert=partial(parquet_from_jsonl, output))


def format_name(path: Path) -> str:
    """Return the format that the name of a file asks for; UsageError where it is none of ours."""
    name = path.suffix.removeprefix(".").lower() or "jsonl"
    if name not in FORMATS:
        raise UsageError(
            f"cannot tell the format of the rows from the name {printable(str(path))}; add "
            f"--format {'|'.join(FORMATS)}"
        )
    return name


def arrow_schema(output: OutputKind) -> "pa.Schema":
    """Return the columns of Parquet: those of a row, and `raw`."""
    import pyarrow as pa

    def arrow(kind: Any) -> "pa.DataType":
        if isinstance(kind, list):
            return pa.list_(arrow(kind[0]))
        if isinstance(kind, dict):
            return pa.struct([(name, arrow(of)) for name, of in kind.items()])
        return {str: pa.string(), int: pa.int64(), float: pa.float64()}[kind]

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            ("raw", pa.binary()),
            *((name, arrow(kind)) for name, kind in output.columns.items()),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )


def are_rows(path: Path) -> bool:
    """Tell by its first bytes whether a file has rows of ours; a table to read is never known."""
    with (
        suppress(OSError, ValueError, TypeError, RecursionError, ImportError),
        path.open("rb") as file,
    ):
        start = file.readline(_LONGEST_ROW)
        if start.startswith(b"PAR1"):
            import pyarrow.parquet as pq

            columns = pq.read_schema(path).names
        elif start.startswith(b"path,"):
            columns = start.decode().rstrip("\n").split(",")
        else:
            columns = list(json.loads(start))
        return csv_dialect.are_ours(columns)
    return False


def _csv(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    # The writer quotes what it ends lines with, and a carriage return for no other reason.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    line = text.getvalue().removesuffix("\r\n") + "\n"
    return line.encode("utf-8", "surrogateescape")
