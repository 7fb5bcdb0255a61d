"""Images in tar files, and paths in the columns of CSV and Parquet files, as they are read."""

import csv
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from vit_runtime.decode import EXTENSIONS, LIMITS, check_regular, is_image
from vit_runtime.errors import ImageError, UsageError
from vit_runtime.sources import Item, Span, printable

_GZIP = b"\x1f\x8b"


def items_from_tar(path: str, *, all_files: bool) -> Iterator[Item]:
    """Yield a tar's images in its order, by extension or signature, as `path`/member.

    Members of a plain tar are read where they are decoded, those of a compressed one here, each
    up to the limit. A tar that cannot be read, or ends early, is an item with its error.
    """
    try:
        check_regular(Path(path).stat())
        with Path(path).open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if packed:
                with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                    yield from _members(path, tar, all_files=all_files, packed=True)
            else:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    yield from _members(path, tar, all_files=all_files, packed=False)
    except ImageError as e:
        yield Item(path, error=e)
    except (tarfile.TarError, EOFError, zlib.error) as e:
        yield Item(path, error=ImageError("truncated", f"the tar cannot be read further: {e}"))
    except OSError as e:
        code = "permission" if isinstance(e, PermissionError) else "missing"
        yield Item(path, error=ImageError(code, f"cannot be read: {e.strerror or e}"))


def _members(path: str, tar: tarfile.TarFile, *, all_files: bool, packed: bool) -> Iterator[Item]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would remember them all
        if not member.isreg() or member.sparse is not None:
            continue
        if not all_files and os.path.splitext(member.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122
            continue
        name = f"{path}/{member.name}"
        if all_files and not packed:
            with Path(path).open("rb") as file:
                file.seek(member.offset_data)
                if not is_image(file.read(16)):
                    continue
        if not packed:
            yield Item(name, span=Span(path, member.offset_data, member.size))
        elif member.size > LIMITS.max_bytes:
            yield Item(name, error=ImageError("too_large", f"has {member.size} bytes"))
        else:
            content = tar.extractfile(member)
            data = content.read() if content else b""
            if not all_files or is_image(data[:16]):
                yield Item(name, data=data)


def check_column(path: str, column: str) -> None:
    """Raise UsageError unless the file is there and has the column."""
    try:
        check_regular(Path(path).stat())
        columns = _parquet_columns(path) if _is_parquet(path) else _csv_columns(path)
    except OSError as e:
        raise UsageError(f"{printable(path)}: cannot be read ({e.strerror or e})") from e
    except ImageError as e:
        raise UsageError(f"{printable(path)} {e}") from e
    except (csv.Error, UnicodeDecodeError) as e:
        raise UsageError(f"{printable(path)}: is not CSV ({e})") from e
    if column not in columns:
        raise UsageError(
            f"{printable(path)}: has no column {column!r} but {', '.join(map(repr, columns))}; "
            "name the one with the paths by --column"
        )


def items_from_table(path: str, column: str) -> Iterator[Item]:
    """Yield the paths and URLs of a column, one item a row, an empty cell too."""
    cells = _parquet_cells(path, column) if _is_parquet(path) else _csv_cells(path, column)
    for row, cell in enumerate(cells, 1):
        if cell:
            yield Item(cell)
        else:
            yield Item(f"{path}:{row}", error=ImageError("missing", f"row {row} has no path"))


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _csv_columns(path: str) -> list[str]:
    with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return next(csv.reader(file), [])


def _csv_cells(path: str, column: str) -> Iterator[str | None]:
    with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            for row in csv.DictReader(file):
                yield row[column]
        except csv.Error as e:
            raise UsageError(f"{printable(path)}: is not CSV ({e})") from e


def _parquet_columns(path: str) -> list[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UsageError("Parquet needs pyarrow; pip install 'vit-engine[parquet]'") from e
    try:
        return [str(name) for name in pq.read_schema(path).names]
    except pa.ArrowException as e:
        raise UsageError(f"{printable(path)}: is not Parquet ({e})") from e


def _parquet_cells(path: str, column: str) -> Iterator[str | None]:
    """`raw` has the bytes of a name that is not UTF-8, where our own rows are the table."""
    import pyarrow.parquet as pq

    names = [name for name in (column, "raw") if name in _parquet_columns(path)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                raw, cell = row.get("raw"), row[column]
                yield os.fsdecode(raw) if raw is not None else cell
