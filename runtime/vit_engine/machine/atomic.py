"""Writing a file whole or not at all: under another name beside it, synced, then renamed."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vit_engine.errors import WriteError, printable

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` that takes its place at the end, or is removed on failure.

    The folder is made where there is none, and goes again on failure. `WriteError` where the file
    cannot be written; what stood at `path` is untouched then.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    # A new random name, refused if it is there: a link planted beforehand is not followed.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as e:
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
        with suppress(OSError):  # the file is in it, or another's is
            for folder in made:
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
