"""From an item to the bytes of its image, wherever they lie."""

import zlib

from vit_engine.errors import ImageError
from vit_engine.sources.downloads import bytes_from_url
from vit_engine.sources.files import bytes_from_path, too_many_bytes
from vit_engine.sources.object_stores import bytes_from_store, is_store
from vit_engine.sources.sample import LIMITS, Limits, Sample
from vit_engine.sources.urls import is_url


def bytes_from_item(
    item: Sample, *, limits: Limits = LIMITS, private_redirects: bool = False
) -> bytes:
    """Read or download what an item names; `ImageError` where that cannot be.

    `private_redirects` is that of `bytes_from_url`.
    """
    if item.error is not None:
        raise item.error
    if item.data is not None:
        return item.data
    if item.span is not None:
        part = (item.span.start, item.span.size)
        data = bytes_from_path(item.span.file, limits=limits, part=part)
        if item.span.unpacked is not None:
            data = _inflated(data, item.span.unpacked, limits)
        if item.span.crc is not None and zlib.crc32(data) != item.span.crc:
            raise ImageError("decode", "is damaged: its checksum is not that of its bytes")
        return data
    if is_url(item.path):
        return bytes_from_url(item.path, limits=limits, private_redirects=private_redirects)
    if is_store(item.path):
        return bytes_from_store(item.path, limits=limits)
    return bytes_from_path(item.path, limits=limits)


def _inflated(data: bytes, size: int, limits: Limits) -> bytes:
    """Unpack deflated bytes, to the size that was announced and no further."""
    if size > limits.max_bytes:
        raise too_many_bytes(size, limits)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(data, size + 1)
    except zlib.error as e:
        raise ImageError("decode", f"cannot be unpacked: {e}") from e
    if len(found) != size:
        message = "more" if len(found) > size else len(found)
        raise ImageError("decode", f"is damaged: {message} of {size} bytes come out of it")
    if not found:
        raise ImageError("empty", "is empty")
    return found
