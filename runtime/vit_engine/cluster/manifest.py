"""A manifest: the images of a run as Parquet files of int64 `row_id`, `path`, in input order."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.rows.formats import arrow_path
from vit_engine.sources.object_stores import Folder, folder_from_path
from vit_engine.sources.sample import ByteRange, Sample

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

ROWS_A_FILE = 1_000_000
"""Images in one file of a manifest: what one task reads."""

_ROWS_AT_ONCE = 65_536


def schema() -> "pa.Schema":
    """Return the columns. `raw` has the bytes of a name that is not UTF-8, else it is null.

    `file`, `start` and `size` say where in a file the image lies, if within one. `error` and
    `error_code` are set where the search itself failed, as for a folder it may not list. A manifest
    by other hands needs `row_id` and `path` alone.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            ("raw", pa.binary()),
            ("file", pa.binary()),
            ("start", pa.int64()),
            ("size", pa.int64()),
            ("unpacked", pa.int64()),
            ("crc", pa.int64()),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )


def write(samples: Iterable[Sample], folder: Folder) -> int:
    """Write the items as a manifest while they are found; return how many there are.

    UsageError for an item that exists in memory alone, as a member of a compressed tar does.
    """
    import pyarrow.parquet as pq

    folder.filesystem.create_dir(folder.path, recursive=True)
    numbered = enumerate(samples)
    total = 0
    for part in itertools.count():
        of_file = itertools.islice(numbered, ROWS_A_FILE)
        rows = list(itertools.islice(of_file, _ROWS_AT_ONCE))
        if not rows:
            break
        path = (folder / f"{part:06}.parquet").path
        with (
            folder.filesystem.open_output_stream(path) as stream,
            pq.ParquetWriter(stream, schema()) as file,
        ):
            while rows:
                file.write_table(_table(rows))
                total += len(rows)
                rows = list(itertools.islice(of_file, _ROWS_AT_ONCE))
    return total


def of_sources(sources: Sequence[str]) -> Folder | None:
    """Return the manifest that the sources are, or None where they are images and folders."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(sources) != 1 or not sources[0].endswith(".parquet"):
        return None
    place = folder_from_path(sources[0])
    try:
        found = pq.read_schema(place.path, filesystem=place.filesystem)
    except (OSError, pa.ArrowInvalid) as e:
        raise UsageError(f"{printable(sources[0])}: cannot be read as Parquet ({e})") from e
    if "row_id" not in found.names:
        return None
    row_id = found.field("row_id").type
    if row_id != pa.int64() or "path" not in found.names:
        raise UsageError(
            f"{printable(sources[0])}: row_id is {row_id}, columns {', '.join(found.names)}; "
            "a manifest has int64 row_id and string path"
        )
    return place


def count(folder: Folder) -> int:
    """Return how many images a manifest has."""
    return int(dataset(folder).count_rows())


def dataset(folder: Folder) -> "ds.Dataset":
    """Open a Parquet file, or those of a folder."""
    import pyarrow.dataset as ds

    return ds.dataset(folder.path, filesystem=folder.filesystem, format="parquet")


def items_from_table(table: "pa.Table") -> list[Sample]:
    """Return the items of some rows of a manifest."""
    columns = [
        table[name].to_pylist() if name in table.column_names else [None] * len(table)
        for name in schema().names[1:]
    ]
    return [
        Sample(
            path if raw is None else os.fsdecode(raw),
            span=None if file is None else ByteRange(os.fsdecode(file), *span),
            error=None if code is None else ImageError(code, error),
        )
        for path, raw, file, *span, error, code in zip(*columns, strict=True)
    ]


def _table(rows: Sequence[tuple[int, Sample]]) -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist([_row(row_id, item) for row_id, item in rows], schema())


def _row(row_id: int, item: Sample) -> dict[str, Any]:
    if item.data is not None:
        raise UsageError(
            f"{printable(item.path)}: is inside a compressed file or a data URI, which every node "
            "would have to read whole; unpack it to use --ray"
        )
    row = {"row_id": row_id, **arrow_path(item.path)}
    if item.span is not None:
        span = item.span
        row |= {**asdict(span), "file": os.fsencode(span.file)}
    if item.error is not None:
        row |= {"error": str(item.error), "error_code": item.error.code}
    return row
