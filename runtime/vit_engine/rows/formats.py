"""Predictions as rows: JSON lines, CSV, a table to read, or Parquet."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_engine.errors import UsageError, printable
from vit_engine.machine.installation import pip_install
from vit_engine.outputs.prediction import Prediction
from vit_engine.rows.text_table import Table
from vit_engine.sources.tables.csv_rows import FORMULA

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = tuple(Prediction(None).to_dict())

_ROWS_A_GROUP = 65_536
_LONGEST_ROW = 2**24  # bytes: the labels of a row are some hundred bytes each


@dataclass(frozen=True)
class Format:
    """How rows are written: a header, then a line for each.

    `convert` writes the final file (second path) from the file of those lines (first path), for a
    format that is not made of lines; with None the lines are the format.
    """

    line: Callable[[Prediction], bytes]
    header: bytes = b""
    convert: Callable[[Path, Path], None] | None = None


def jsonl_line(prediction: Prediction) -> bytes:
    """Return one JSON document; bytes of a path that are not UTF-8 are lone surrogates in it."""
    return json.dumps(prediction.to_dict()).encode() + b"\n"


def csv_line(prediction: Prediction) -> bytes:
    """Return one CSV record: `topk` is JSON within its cell, a path has the bytes it has on disk.

    A text that a spreadsheet would run as a formula gets an apostrophe before it, and so does one
    that already has some before a formula: the reader of our own rows takes one away.
    """
    row = prediction.to_dict()
    row["topk"] = json.dumps(row["topk"]) if prediction.error is None else None
    return _csv(
        f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value
        for value in row.values()
    )


def parquet_from_jsonl(lines: Path, path: Path) -> None:
    """Write the rows of a JSON Lines file as Parquet, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema()
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
    if _is_utf8(raw):
        return {"path": path, "raw": None}
    return {"path": printable(path), "raw": raw}


def format_from_name(name: str, table: Table = Table()) -> Format:  # noqa: B008  frozen
    """Return the format of a name in FORMATS; `table` says how one to read is laid out.

    UsageError for Parquet where pyarrow is not installed.
    """
    if name == "table":
        return Format(table.line)
    if name == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as e:
            raise UsageError(
                f"Parquet needs pyarrow; {pip_install('parquet')}, or use --format jsonl"
            ) from e
    return _FORMATS[name]


def arrow_schema() -> "pa.Schema":
    """Return the columns of Parquet: those of a row, and `raw`."""
    import pyarrow as pa

    score = [("label", pa.string()), ("index", pa.int64()), ("score", pa.float64())]
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            ("raw", pa.binary()),
            *score,
            ("topk", pa.list_(pa.struct(score))),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )


def are_rows(path: Path) -> bool:
    """Tell by its beginning whether a file has rows of ours; a table to read is never known."""
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        start = file.readline(_LONGEST_ROW)
        if start.startswith(b"PAR1"):
            return _is_parquet(path)
        if start == _FORMATS["csv"].header:
            return True
        first = json.loads(start)
        return isinstance(first, dict) and tuple(first) == COLUMNS
    return False


def _is_parquet(path: Path) -> bool:
    """Tell whether a Parquet file has the columns of our rows; without pyarrow it is not known."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return False
    try:
        return bool(pq.read_schema(path).names == arrow_schema().names)
    except (pa.ArrowException, OSError):
        return False


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _csv(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    # The writer quotes what it ends lines with, and a carriage return for no other reason.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    line = text.getvalue().removesuffix("\r\n") + "\n"
    return line.encode("utf-8", "surrogateescape")


_FORMATS = {
    "table": Format(Table().line),
    "jsonl": Format(jsonl_line),
    "csv": Format(csv_line, header=_csv(COLUMNS)),
    "parquet": Format(jsonl_line, convert=parquet_from_jsonl),
}
FORMATS = tuple(_FORMATS)
"""The names of the formats."""
