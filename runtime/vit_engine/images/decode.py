"""From bytes or a path to a decoded image, under limits; whatever fails is an `ImageError`."""

import io
import os
import zlib

# Image.open imports every plugin of Pillow's, forty, unless those of FORMATS are there.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    Image,
    ImageFile,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from vit_engine.errors import ImageError
from vit_engine.images.image_errors import check_size, image_errors
from vit_engine.machine.installation import pip_install
from vit_engine.sources.files import bytes_from_path
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import LIMITS, Limits, Sample
from vit_engine.sources.signatures import HEAD, PLUGINS, has_plugin, is_image, unread_format

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
"""What is decoded, by Pillow's names."""


def image_from_item(
    item: Sample,
    *,
    limits: Limits = LIMITS,
    draft: tuple[int, int] | None = None,
    private_redirects: bool = False,
    plugins: bool = False,
) -> Image.Image:
    """Read or download, and decode as `image_from_bytes`; `ImageError` where that cannot be."""
    data = bytes_from_item(item, limits=limits, private_redirects=private_redirects)
    return image_from_bytes(data, limits=limits, draft=draft, plugins=plugins)


def image_from_path(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> Image.Image:
    """Return the decoded first frame of an image file; `ImageError` where that cannot be."""
    return image_from_bytes(bytes_from_path(path, limits=limits), limits=limits)


def image_from_bytes(
    data: bytes,
    *,
    limits: Limits = LIMITS,
    draft: tuple[int, int] | None = None,
    plugins: bool = False,
) -> Image.Image:
    """Return the decoded first frame of an encoded image; a file cut short is an error.

    With `draft`, a JPEG is decoded at a half, a quarter or an eighth of its size where that is no
    smaller than this (width, height). Pillow is used as it is set in this process: where
    LOAD_TRUNCATED_IMAGES is set, half an image passes. With `plugins`, HEIC and JPEG XL are decoded
    where their plugins are installed: for a process that they may crash.
    """
    if not data:
        raise ImageError("empty", "is empty")
    with image_errors():
        try:
            formats = _formats_of(data[:HEAD]) if plugins else FORMATS
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError as e:
            raise _unidentified(data[:HEAD]) from e
        check_size(image, limits.max_pixels)
        if draft is not None:
            image.draft(None, draft)
        image.load()
        check_size(image, limits.max_pixels)  # again: what is loaded may have another size
        if image.format == "PNG" and not ImageFile.LOAD_TRUNCATED_IMAGES:
            _check_pixel_chunks(data)
    return image


def _check_pixel_chunks(png: bytes) -> None:
    """Raise ImageError for a chunk of pixels whose checksum is wrong: Pillow checks the others."""
    view, at = memoryview(png), 8
    while (kind := png[at + 4 : at + 8]) not in (b"", b"IEND"):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if kind == b"IDAT" and zlib.crc32(view[at + 4 : end]).to_bytes(4, "big") != png[end:][:4]:
            raise ImageError("decode", "is damaged: the checksum of its pixels is wrong")
        at = end + 4


def _formats_of(head: bytes) -> tuple[str, ...]:
    """Return the formats that are read, with the one of these bytes where a plugin reads it."""
    unread = unread_format(head)
    if not has_plugin(unread):
        return FORMATS
    if unread == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
        return (*FORMATS, "HEIF")
    import pillow_jxl  # noqa: F401  which registers itself

    return (*FORMATS, "JXL")


def _unidentified(head: bytes) -> ImageError:
    """Say of bytes that Pillow does not know what they are: damaged, unsupported or no image."""
    if is_image(head):
        return ImageError("decode", "begins like an image, but its header is damaged")
    known = ", ".join(FORMATS)
    unread = unread_format(head)
    if unread in PLUGINS:
        extra = pip_install(PLUGINS[unread][1])
        where = (
            "only with isolated=True" if has_plugin(unread) else f"with another package: {extra}"
        )
        return ImageError("format", f"is {unread}, which is read {where}")
    if unread:
        return ImageError("format", f"is {unread}, which is not read ({known} are)")
    return ImageError("format", f"is not an image of a known format ({known})")
