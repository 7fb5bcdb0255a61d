"""A manifest: the images of a run as Parquet files of int64 `row_id`, `path`, in input order."""

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vit_runtime.errors import ImageError, UsageError
from vit_runtime.rows import arrow_path
from vit_runtime.sources import Item, printable
from vit_runtime.storage import Folder, folder_from_path

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

ROWS_A_FILE = 1_000_000
"""Images in one file of a manifest: what one task reads."""

_ROWS_AT_ONCE = 65_536


def schema() -> "pa.Schema":
    """Return the columns. `raw` has the bytes of a name that is not UTF-8, else it is null.

    `error` and `error_code` are set where the search itself failed, as for a folder it may not
    list. A manifest by other hands needs `row_id` and `path` alone.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            ("raw", pa.binary()),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )


def write(items: Iterable[Item], folder: Folder) -> int:
    """Write the items as a manifest while they are found; return how many there are.

    UsageError for an item that exists in memory alone, such as a member of a tar.
    """
    import pyarrow.parquet as pq

    folder.filesystem.create_dir(folder.path, recursive=True)
    numbered = enumerate(items)
    total = 0
    for part in itertools.count():
        rows = list(itertools.islice(numbered, _ROWS_AT_ONCE))
        if not rows:
            return total
        path = (folder / f"{part:06}.parquet").path
        with (
            folder.filesystem.open_output_stream(path) as stream,
            pq.ParquetWriter(stream, schema()) as file,
        ):
            written = 0
            while rows:
                file.write_table(_table(rows))
                written += len(rows)
                room = min(_ROWS_AT_ONCE, ROWS_A_FILE - written)
                rows = list(itertools.islice(numbered, room))
        total += written
    raise AssertionError


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


def items(table: "pa.Table") -> list[Item]:
    """Return the items of some rows of a manifest."""
    columns = [
        table[name].to_pylist() if name in table.column_names else [None] * len(table)
        for name in ("path", "raw", "error", "error_code")
    ]
    return [
        Item(
            path if raw is None else os.fsdecode(raw),
            error=None if code is None else ImageError(code, error),
        )
        for path, raw, error, code in zip(*columns, strict=True)
    ]


def _table(rows: Sequence[tuple[int, Item]]) -> "pa.Table":
    import pyarrow as pa

    if any(item.data is not None for _, item in rows):
        name = next(item.path for _, item in rows if item.data is not None)
        raise UsageError(f"{printable(name)}: is inside another file; unpack it for --ray")
    return pa.Table.from_pylist(
        [
            {
                "row_id": row_id,
                **arrow_path(item.path),
                "error": str(item.error) if item.error else None,
                "error_code": item.error.code if item.error else None,
            }
            for row_id, item in rows
        ],
        schema(),
    )
