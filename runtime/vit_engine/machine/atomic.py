"""Writing a file whole or not at all: under another name beside it, synced, then renamed."""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_engine.errors import WriteError, printable

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` that takes its place at the end, or is removed on failure.

    The folder is made where there is none, and stays only with a file in it. `WriteError` where
    the file cannot be written; what stood at `path` is untouched then.
    """
    # A new random name, refused if it is there: a link planted beforehand is not followed.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}")
    made: list[Path] = []
    try:
        made = make_folders(path.parent)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as e:
        remove_empty(made)
        raise _unwritten(path, e) from e
    try:
        try:
            yield temporary
        except OSError as e:
            raise (_unwritten(path, e) if e.errno in _FULL else e) from e
        try:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except OSError as e:
            raise _unwritten(path, e) from e
    finally:
        temporary.unlink(missing_ok=True)
        remove_empty(made)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder, and those above it that are missing; return what was made, innermost first."""
    missing: list[Path] = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.insert(0, path)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, as far as nothing is in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` into the file at `path`, whole or not at all; `WriteError` where that fails."""
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as e:
            raise _unwritten(path, e) from e


def sync_folder(folder: Path) -> None:
    """Have the folder's entries survive a loss of power: a rename alone is not yet on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, e: OSError) -> WriteError:
    return WriteError(f"{printable(str(path))}: cannot be written ({e.strerror or e})")
