"""From what a user names to single images, streaming: files, folders, globs, URLs, lists."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from vit_engine.errors import ImageError, UsageError, did_you_mean, printable
from vit_engine.sources import folders
from vit_engine.sources.archives.tars import items_from_tar
from vit_engine.sources.archives.zips import items_from_zip
from vit_engine.sources.lists import items_from_list
from vit_engine.sources.object_stores import is_store, samples_from_store
from vit_engine.sources.sample import Sample
from vit_engine.sources.tables.paths import check_table, items_from_table
from vit_engine.sources.urls import is_remote, is_url

TARS = (".tar", ".tar.gz", ".tgz")
"""Names of files that hold images."""

ZIPS = (".zip",)
"""Names of the other files that hold images."""

TABLES = (".csv", ".parquet")
"""Names of files that hold paths."""

DEFAULT_COLUMN = "path"
"""Of the paths in a CSV or Parquet file."""


def is_local(source: str) -> bool:
    """Tell whether a source is on this machine's disk: no URL, no object store's, no list."""
    return source != "-" and not is_remote(source)


def check_present(sources: Sequence[str]) -> None:
    """Raise UsageError for a file or folder that is named and is not there."""
    for source in sources:
        if not is_local(source) or folders.is_pattern(source):
            continue
        try:
            os.lstat(source)
        except PermissionError:  # it may be there: its row says why it cannot be read
            continue
        except (FileNotFoundError, NotADirectoryError) as e:
            raise UsageError(
                f"{printable(source) or repr(source)}: no such file or folder{did_you_mean(source)}"
            ) from e
        except OSError as e:
            raise UsageError(f"{printable(source)}: {e.strerror}") from e


def samples_from_sources(
    sources: Iterable[str],
    *,
    all_files: bool = False,
    follow_links: bool = False,
    null: bool = False,
    column: str = DEFAULT_COLUMN,
    stdin: BinaryIO | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[Sample]:
    """Yield the images that the sources name, in order, found while the caller works.

    A source is a file, a folder (searched recursively, each folder sorted by name, by extension or
    with `all_files` by signature), a glob (files alone), an http(s) URL, an object store's URL
    (a folder there is searched by extension), a tar or zip of images, a CSV or Parquet file with a
    `column` of paths, or `-`: a list of files and URLs on stdin, one a line, or NUL-terminated with
    `null`. A file that is absent is an item all the same, and so is a folder, a row or a table that
    cannot be read when its turn comes.

    `UsageError`, before the first item, for no source at all, a folder without an image, a glob
    without a match, an archive without an image where it is the only source, and a table that has
    no rows with the column; with the first line for a list that is NUL-terminated or UTF-16.

    In `skipped` are counted, while folders and archives are searched, the images there that are
    not for labelling, by the reason, for `folders.in_words`.
    """
    sources, passed_over = list(sources), Counter[str]() if skipped is None else skipped
    if not sources:
        raise UsageError("no images given; name a file, a folder, a glob, a URL, or - for stdin")
    if sources.count("-") > 1:
        raise UsageError("- is given twice, and stdin can be read only once")
    if "-" in sources and stdin is None and sys.stdin is None:
        raise UsageError("- is a list on stdin, and stdin is closed")

    def in_file(path: str) -> Iterator[Sample]:
        if path.lower().endswith((*TARS, *ZIPS)):
            return samples_from_archive(path, all_files=all_files, skipped=passed_over)
        if path.lower().endswith(TABLES):
            return items_from_table(path, column)
        return iter((Sample(path),))

    def in_folder(path: str, counts: Counter[str]) -> Iterator[Sample]:
        walk = folders.walked(path, all_files=all_files, follow_links=follow_links, skipped=counts)
        return (Sample(path, error=_unlisted(e)) for path, e in walk)

    def matching(pattern: str) -> Iterator[Sample]:
        for path, e in folders.globbed(pattern):
            if e is None:
                yield from in_file(path)
            else:
                yield Sample(path, error=_unlisted(e))

    def found(source: str) -> Iterator[Sample]:
        if source == "-":
            return items_from_list(stdin or sys.stdin.buffer, null=null)
        if is_url(source):
            return iter((Sample(source),))
        if is_store(source):
            return samples_from_store(source, skipped=passed_over)
        counts: Counter[str] = Counter()
        if os.path.isdir(source):  # noqa: PTH112  a Path would tidy the user's spelling
            if next(in_folder(source, counts), None) is None:
                message = folders.no_image("folder", all_files=all_files, skipped=counts)
                raise UsageError(f"{printable(source)}: {message}")
            return in_folder(source, passed_over)
        if folders.is_pattern(source):
            if next(folders.globbed(source), None) is None:
                raise UsageError(f"{printable(source)}: no file matches this pattern")
            return matching(source)
        if source.lower().endswith(TABLES):
            check_table(source, column)
        elif source.lower().endswith((*TARS, *ZIPS)) and len(sources) == 1:
            kind, samples = _archive(source)
            if next(samples(source, all_files=all_files, skipped=counts), None) is None:
                message = folders.no_image(kind, all_files=all_files, skipped=counts)
                raise UsageError(f"{printable(source)}: {message}")
        return in_file(source)

    return chain.from_iterable([found(source) for source in sources])


def _archive(path: str) -> tuple[str, Callable[..., Iterator[Sample]]]:
    """Return what kind of archive a path names, and what finds the images in it."""
    return ("zip", items_from_zip) if path.lower().endswith(ZIPS) else ("tar", items_from_tar)


def samples_from_archive(path: str, *, all_files: bool, skipped: Counter[str]) -> Iterator[Sample]:
    """Yield the images of a tar or zip; of one that holds none, an item with that for an error."""
    kind, samples = _archive(path)
    before, found = skipped.copy(), False
    for item in samples(path, all_files=all_files, skipped=skipped):
        found = True
        yield item
    if not found:
        message = folders.no_image(kind, all_files=all_files, skipped=skipped - before)
        yield Sample(path, error=ImageError("empty", message))


def _unlisted(e: OSError | None) -> ImageError | None:
    if e is None:
        return None
    code = "permission" if isinstance(e, PermissionError) else "missing"
    return ImageError(code, f"cannot be listed: {e.strerror}")
