"""From what a user names to single images, streaming: files, folders, globs, URLs, lists."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.sources import folders
from vit_engine.sources.downloads import is_url
from vit_engine.sources.item import Item
from vit_engine.sources.stores import is_store, items_from_store
from vit_engine.sources.tables import check_column, items_from_table
from vit_engine.sources.tars import items_from_tar

TARS = (".tar", ".tar.gz", ".tgz")
"""Names of files that hold images."""

TABLES = (".csv", ".parquet")
"""Names of files that hold paths."""

DEFAULT_COLUMN = "path"
"""Of the paths in a CSV or Parquet file."""


def items_from_sources(
    sources: Iterable[str],
    *,
    all_files: bool = False,
    follow_links: bool = False,
    null: bool = False,
    column: str = DEFAULT_COLUMN,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """Yield the images that the sources name, in order, found while the caller works.

    A source is a file, a folder (searched recursively, each folder sorted by name, by extension or
    with `all_files` by signature), a glob (files alone), an http(s) URL, an object store's URL
    (a folder there is searched by extension), a tar of images, a CSV or Parquet file with a
    `column` of paths, or `-`: a list of files and URLs on stdin, one a line, or NUL-terminated with
    `null`. A file that is absent is an item all the same. `UsageError`, before the first item, for
    no source at all, a folder without an image, a glob without a match and a table without the
    column.
    """
    sources = list(sources)
    if not sources:
        raise UsageError("no source given; name a file, a folder, a glob, a URL, or - for stdin")
    if sources.count("-") > 1:
        raise UsageError("- is given twice, and stdin can be read only once")

    def in_file(path: str) -> Iterator[Item]:
        if path.lower().endswith(TARS):
            return items_from_tar(path, all_files=all_files)
        if path.lower().endswith(TABLES):
            return items_from_table(path, column)
        return iter((Item(path),))

    def found(source: str) -> Iterator[Item]:
        if source == "-":
            return _listed(stdin or sys.stdin.buffer, null=null)
        if is_url(source):
            return iter((Item(source),))
        if is_store(source):
            return items_from_store(source)
        if os.path.isdir(source):  # noqa: PTH112  a Path would tidy the user's spelling
            walk = folders.walked(source, all_files=all_files, follow_links=follow_links)
            return (Item(path, error=_unlisted(e)) for path, e in walk)
        if folders.is_pattern(source):
            return (item for path in folders.globbed(source) for item in in_file(path))
        return in_file(source)

    for source in sources:
        if source == "-" or is_url(source) or is_store(source):
            continue
        if os.path.isdir(source):  # noqa: PTH112
            if next(found(source), None) is None:
                kinds = "file with an image's signature" if all_files else "image"
                more = "" if all_files else " (searched by extension; --all-files looks inside)"
                raise UsageError(f"{printable(source)}: no {kinds} in this folder{more}")
        elif folders.is_pattern(source):
            if next(folders.globbed(source), None) is None:
                raise UsageError(f"{printable(source)}: no file matches this pattern")
        elif source.lower().endswith(TABLES):
            check_column(source, column)
    return (item for part in [found(source) for source in sources] for item in part)


def _unlisted(e: OSError | None) -> ImageError | None:
    if e is None:
        return None
    code = "permission" if isinstance(e, PermissionError) else "missing"
    return ImageError(code, f"cannot be listed: {e.strerror}")


def _listed(stdin: BinaryIO, *, null: bool) -> Iterator[Item]:
    end = b"\0" if null else b"\n"
    rest = b""
    while block := os.read(stdin.fileno(), 2**16):
        *names, rest = (rest + block).split(end)
        yield from _named(names, null=null)
    yield from _named([rest], null=null)


def _named(names: list[bytes], *, null: bool) -> Iterator[Item]:
    for name in names:
        if not null:
            if b"\0" in name:
                raise UsageError("the list on stdin is NUL-separated; add -0")
            name = name.removesuffix(b"\r")  # noqa: PLW2901
        if name:
            yield Item(os.fsdecode(name))
