"""From bytes or a path to a decoded image, under limits; whatever fails is an `ImageError`."""

import errno
import functools
import importlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, JpegImagePlugin, UnidentifiedImageError, features

from vit_runtime.errors import ImageError
from vit_runtime.preprocess import MAX_PIXELS, hush_pillow

MAX_BYTES = 256 * 2**20
"""Bytes of the largest file that is read."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""What is decoded, by Pillow's names; AVIF only where Pillow was built with it."""

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
)
"""Names that folders are searched for, in lower case."""

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)


@dataclass(frozen=True)
class Limits:
    """What one image may cost: bytes read, pixels decoded."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS


LIMITS = Limits()


def image_from_path(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> Image.Image:
    """Return the decoded first frame of an image file; `ImageError` where that cannot be."""
    return image_from_bytes(bytes_from_path(path, limits=limits), limits=limits)


def image_from_bytes(
    data: bytes, *, limits: Limits = LIMITS, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Return the decoded first frame of an encoded image; a file cut short is an error.

    With `draft`, a JPEG is decoded at a half, a quarter or an eighth of its size where that is no
    smaller than this (width, height).
    """
    if not data:
        raise ImageError("empty", "is empty")
    hush_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        _check_size(image, limits)
        if draft is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, draft)
        image.load()
        _check_size(image, limits)
    except ImageError:
        raise
    except UnidentifiedImageError as e:
        if is_image(data):
            raise ImageError("decode", "has a damaged header") from e
        raise ImageError(
            "format", f"is not an image of a known format ({', '.join(_formats())})"
        ) from e
    except Image.DecompressionBombError as e:
        raise ImageError("too_large", f"is too large: {_line(e)}") from e
    except MemoryError as e:
        raise ImageError("too_large", "needs more memory than there is") from e
    except Exception as e:  # hostile files raise nearly anything
        cut = isinstance(e, EOFError) or any(s in str(e).lower() for s in _SIGNS_OF_A_CUT)
        code, words = ("truncated", "is cut short") if cut else ("decode", "cannot be decoded")
        raise ImageError(code, f"{words}: {_line(e)}") from e
    return image


_SIGNS_OF_A_CUT = ("truncat", "unexpected end", "end of file", "not enough image data")


def bytes_from_path(
    path: str | os.PathLike[str], *, limits: Limits = LIMITS, part: tuple[int, int] | None = None
) -> bytes:
    """Read a regular file, or a `part` (start, size) of it, once and up to the limit.

    Anything that is no regular file is refused without opening it.
    """
    try:
        check_regular(Path(path).stat())
        # The name may have become a FIFO since: O_NONBLOCK returns at once, and fstat tells.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            check_regular(found)
            start, size = part or (0, found.st_size)
            if size > limits.max_bytes:
                raise _too_many_bytes(size, limits)
            file.seek(start)
            data = _read(file, size if part else limits.max_bytes + 1)
    except OSError as e:
        code = "permission" if e.errno in (errno.EACCES, errno.EPERM) else "missing"
        raise ImageError(code, f"cannot be read: {e.strerror or e}") from e
    except ValueError as e:  # a NUL in the name
        raise ImageError("missing", f"cannot be read: {e}") from e
    if not data:
        raise ImageError("empty", "is empty")
    if len(data) > limits.max_bytes:  # it has grown since
        raise _too_many_bytes(len(data), limits)
    if part and len(data) < size:
        raise ImageError("truncated", f"is cut short: {len(data)} of {size} bytes are there")
    return data


def is_image(head: bytes) -> bool:
    """Tell from the first 16 bytes of a file whether it has the signature of a known format."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1", b"msf1"))
    )


def _check_size(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_large", f"has {width}x{height} pixels, the limit is {limits.max_pixels}"
        )


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


def _too_many_bytes(found: int, limits: Limits) -> ImageError:
    return ImageError("too_large", f"has {found} bytes, the limit is {limits.max_bytes}")


def _read(file: io.FileIO, limit: int) -> bytes:
    """Read to the end or `limit`; a raw read may return less than asked."""
    parts = []
    while limit > 0 and (part := file.read(min(limit, 2**24))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _line(e: Exception) -> str:
    text = " ".join(f"{e}".split()) or type(e).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


@functools.cache
def _formats() -> tuple[str, ...]:
    """Register the decoders, these alone: Pillow would import its 40 others with the first TIFF."""
    names = ["Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP"]
    if avif := bool(features.check("avif")):
        names.append("Avif")
    for name in names:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    return FORMATS if avif else FORMATS[:-1]
