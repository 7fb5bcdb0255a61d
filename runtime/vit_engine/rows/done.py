"""Which images have a result in the rows of earlier runs."""

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vit_engine.errors import ImageError, UsageError, did_you_mean, printable
from vit_engine.rows.formats import are_rows
from vit_engine.sources.tables.csv_rows import csv_rows


def done_paths(files: Iterable[Path]) -> set[str]:
    """Return the paths of rows without an error; UsageError for a file that has no rows of ours."""
    return {path for file in files for path, error in _rows(file) if not error}


def _rows(file: Path) -> Iterator[tuple[str, str | None]]:
    """Yield path and error of each row."""
    if not are_rows(file):
        near = "" if file.exists() else f" (there is no such file{did_you_mean(str(file))})"
        raise UsageError(f"--skip-done {printable(str(file))}: has no rows of vit-infer{near}")
    with file.open("rb") as opened:
        start = opened.peek(5)
        if start.startswith(b"PAR1"):
            yield from _parquet_rows(opened)
        elif start.startswith(b"path,"):
            names, rows = csv_rows(opened, "path")
            error = names.index("error")
            for _, cells in rows:
                if not isinstance(cells, ImageError) and len(cells) == len(names):
                    yield cells[0], cells[error]
        else:
            for line in opened:
                row = json.loads(line)
                yield row["path"], row["error"]


def _parquet_rows(opened: io.BufferedReader) -> Iterator[tuple[str, str | None]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(opened).iter_batches(columns=["path", "raw", "error"]):
        for row in batch.to_pylist():
            yield row["path"] if row["raw"] is None else os.fsdecode(row["raw"]), row["error"]
