"""Results as rows: JSON lines, CSV, a table to read, Parquet, or vectors as .npy."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_engine.errors import UsageError, printable
from vit_engine.machine.installation import pip_install
from vit_engine.outputs import csv_dialect
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind, Result
from vit_engine.outputs.scores import Scores
from vit_engine.rows import vectors
from vit_engine.rows.text_table import Table
from vit_engine.rows.vectors import VectorType

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "jsonl", "csv", "parquet", "npy")
"""The names of the formats."""

_ROWS_A_GROUP, _VECTORS_A_GROUP = 65_536, 8_192
_LONGEST_ROW = 2**24  # bytes: the labels of a row are some hundred bytes each


@dataclass(frozen=True)
class Format:
    """How rows are written: a header, then a line for each.

    `convert` writes the final file (second path) from the file of those lines (first path), for a
    format that is not made of lines; with None the lines are the format. `beside` writes more
    files in the same way, by what is appended to the name of the final one.
    """

    line: Callable[[Result], bytes]
    header: bytes = b""
    convert: Callable[[Path, Path], None] | None = None
    beside: Mapping[str, Callable[[Path, Path], None]] = field(default_factory=dict)


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


def packed_line(prediction: Result) -> bytes:
    """Return what a file of rows is made of that is not made of lines: short JSON."""
    return json.dumps(prediction.packed()).encode() + b"\n"


def parquet_from_lines(
    schema: "pa.Schema", lines: Path, path: Path, *, failed_last: bool = False
) -> None:
    """Write packed lines as Parquet, a row group at a time."""
    import pyarrow.parquet as pq

    rows = _packed(lines)
    if failed_last:
        rows = (row for failed in (False, True) for row in _packed(lines, failed=failed))
    size = _VECTORS_A_GROUP if vectors.COLUMN in schema.names else _ROWS_A_GROUP
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := [row | arrow_path(row["path"]) for row in islice(rows, size)]:
            writer.write_table(vectors.arrow_table(group, schema))


def npy_from_lines(output: Embeddings, dtype: str, lines: Path, path: Path) -> None:
    """Write the vectors of packed lines as an array (N, size), without those that failed."""
    count = sum(1 for _ in _packed(lines, failed=False))
    found = (row[vectors.COLUMN] for row in _packed(lines, failed=False))
    vectors.write_npy(path, found, (count, output.size), dtype)


def _packed(lines: Path, *, failed: bool | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of packed lines: all, those that have `failed`, or those that have not."""
    with lines.open("rb") as file:
        for row in map(json.loads, file):
            if failed is None or failed == (row["error"] is not None):
                yield row


def arrow_path(path: str) -> dict[str, Any]:
    """Return the columns of a path: `raw` has its bytes, and `path` them escaped, if not UTF-8."""
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8"), "raw": None}
    except UnicodeDecodeError:
        return {"path": printable(path), "raw": raw}


def columns_of(output: OutputKind) -> tuple[str, ...]:
    """Return the names of a row's columns, the same in every format."""
    return ("path", *output.columns, "error", "error_code")


def format_from_name(
    name: str,
    output: OutputKind,
    *,
    width: int | None = None,
    colour: bool = False,
    dtype: VectorType | None = None,
    model: str = "",
) -> Format:
    """Return the format of a name in FORMATS for rows of a kind; `width` and `colour` are Table's.

    `dtype` is what numbers of vectors are stored as, by default float32, and `model` is named with
    them. UsageError for what the rows or this format have none of, and for Parquet and .npy where
    pyarrow is not installed.
    """
    if name == "npy" and isinstance(output, Scores):
        raise UsageError(".npy is for vectors, and the model gives labels; use --format parquet")
    if dtype and (isinstance(output, Scores) or name not in ("parquet", "npy")):
        raise UsageError(
            f"--vectors {dtype} is for the vectors of an embedding model as Parquet or .npy; leave "
            "it out"
        )
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
            f"{name.capitalize()} needs pyarrow; {pip_install('parquet')}, or use --format jsonl"
        ) from e
    schema = arrow_schema(output, dtype or "float32", model)
    if name == "npy" and isinstance(output, Embeddings):
        beside = schema.remove(schema.get_field_index(vectors.COLUMN))
        rows = partial(parquet_from_lines, beside, failed_last=True)
        array = partial(npy_from_lines, output, dtype or "float32")
        return Format(packed_line, convert=array, beside={vectors.ROWS_BESIDE: rows})
    return Format(packed_line, convert=partial(parquet_from_lines, schema))


def format_name(path: Path) -> str:
    """Return the format that the name of a file asks for; UsageError where it is none of ours."""
    name = path.suffix.removeprefix(".").lower() or "jsonl"
    if name == "json":
        raise UsageError(
            f"{printable(str(path))}: rows are JSON lines, one document a row; name the file "
            ".jsonl, or add --format jsonl"
        )
    if name not in FORMATS:
        raise UsageError(
            f"cannot tell the format of the rows from the name {printable(str(path))}; add "
            f"--format {'|'.join(FORMATS)}"
        )
    return name


def arrow_schema(output: OutputKind, dtype: VectorType = "float32", model: str = "") -> "pa.Schema":
    """Return the columns of Parquet: those of a row, and `raw`; vectors are those of a model."""
    import pyarrow as pa

    def arrow(kind: Any) -> "pa.DataType":
        if isinstance(kind, list):
            return pa.list_(arrow(kind[0]))
        if isinstance(kind, dict):
            return pa.struct([(name, arrow(of)) for name, of in kind.items()])
        return {str: pa.string(), int: pa.int64(), float: pa.float64()}[kind]

    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            ("raw", pa.binary()),
            *((name, arrow(kind)) for name, kind in output.columns.items()),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )
    if isinstance(output, Embeddings):
        return vectors.with_vectors(schema, output, dtype, model)
    return schema


def are_rows(path: Path) -> bool:
    """Tell by its first bytes whether a file has rows of ours; a table to read is never known."""
    with (
        suppress(OSError, ValueError, TypeError, RecursionError, ImportError),
        path.open("rb") as file,
    ):
        start = file.readline(_LONGEST_ROW)
        if start.startswith(vectors.NPY_MAGIC):  # ours where the rows beside it are
            return are_rows(path.with_name(path.name + vectors.ROWS_BESIDE))
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
