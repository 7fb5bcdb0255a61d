"""Reading regular files, once and within limits."""

import errno
import io
import os
import stat
from pathlib import Path

from vit_engine.errors import ImageError, other_name
from vit_engine.sources.sample import LIMITS, Limits


def bytes_from_path(
    path: str | os.PathLike[str], *, limits: Limits = LIMITS, part: tuple[int, int] | None = None
) -> bytes:
    """Read a regular file, or a `part` (start, size) of it, once and up to the limit.

    Anything that is no regular file is refused without opening it.
    """
    try:
        with open_regular(path) as file:
            start, size = part or (0, os.fstat(file.fileno()).st_size)
            if size > limits.max_bytes:
                raise too_many_bytes(size, limits)
            file.seek(start)
            data = _read(file, size if part else limits.max_bytes + 1)
    except OSError as e:
        raise read_error(e) from e
    if not data:
        raise ImageError("empty", "is empty")
    if len(data) > limits.max_bytes:  # it has grown since
        raise too_many_bytes(len(data), limits)
    if part and len(data) < size:
        raise ImageError("truncated", f"is cut short: {len(data)} of {size} bytes are there")
    return data


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a regular file to be read, unbuffered; OSError or ImageError where that cannot be."""
    try:
        check_regular(Path(path).stat())
        # The name may have become a FIFO since: O_NONBLOCK returns at once, and fstat tells.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as e:  # a NUL in the name
        raise ImageError("missing", f"cannot be read: {e}") from e
    file = io.FileIO(descriptor)
    try:
        check_regular(os.fstat(descriptor))
    except ImageError:
        file.close()
        raise
    return file


def read_error(e: OSError) -> ImageError:
    """Return the error of an image, or of a file of images, that cannot be opened or read."""
    code = "permission" if e.errno in (errno.EACCES, errno.EPERM) else "missing"
    if isinstance(e, FileNotFoundError) and (found := other_name(os.fsdecode(e.filename or ""))):
        return ImageError(code, found)
    return ImageError(code, f"cannot be read: {e.strerror or e}")


def check_regular(found: os.stat_result) -> None:
    """Raise ImageError `not_regular` for anything but a file: a FIFO, a device, a folder."""
    if not stat.S_ISREG(found.st_mode):
        kind = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a character device",
            stat.S_IFBLK: "a block device",
        }.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise ImageError("not_regular", f"is {kind}, not a regular file")


def too_many_bytes(found: int, limits: Limits) -> ImageError:
    """Return the error of an image that is larger than what is read."""
    return ImageError("too_large", f"has {found} bytes, the limit is {limits.max_bytes}")


def _read(file: io.FileIO, limit: int) -> bytes:
    """Read to the end or `limit`; a raw read may return less than asked."""
    parts = []
    while limit > 0 and (part := file.read(min(limit, 2**24))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
