"""One image to be: where it lies, and what it may cost to read and decode."""

from dataclasses import dataclass

from vit_engine.errors import ImageError

MAX_BYTES = 256 * 2**20
"""Bytes of the largest file that is read."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest image that is decoded, or made on the way: Pillow's own bomb threshold."""


@dataclass(frozen=True)
class Limits:
    """What one image may cost: bytes read, pixels decoded."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS


LIMITS = Limits()


@dataclass(frozen=True)
class ByteRange:
    """A part of a file: `size` bytes from `start`, as they are or deflated, as zip has them."""

    file: str
    start: int
    size: int
    unpacked: int | None = None  # bytes, of a deflated one
    crc: int | None = None  # of the bytes, unpacked, of a zip's member


@dataclass(frozen=True)
class Sample:
    """One row to be: `path` is what the row shows (undecodable bytes as surrogates)."""

    path: str
    data: bytes | None = None  # set where the source has been read already
    span: ByteRange | None = None  # set where the image lies within a file
    error: ImageError | None = None  # set where there is nothing to read
