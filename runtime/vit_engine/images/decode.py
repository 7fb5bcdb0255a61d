"""From bytes or a path to a decoded image, under limits; whatever fails is an `ImageError`."""

import functools
import importlib
import io
import os

from PIL import Image, JpegImagePlugin, UnidentifiedImageError, features

from vit_engine.errors import ImageError, one_line
from vit_engine.images.preprocess import hush_pillow
from vit_engine.sources.files import bytes_from_path
from vit_engine.sources.item import LIMITS, Item, Limits
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.signatures import HEAD, is_image, unread_format

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""What is decoded, by Pillow's names; AVIF only where Pillow was built with it."""


def image_from_item(
    item: Item,
    *,
    limits: Limits = LIMITS,
    draft: tuple[int, int] | None = None,
    private_redirects: bool = False,
) -> Image.Image:
    """Read or download, and decode as `image_from_bytes`; `ImageError` where that cannot be."""
    data = bytes_from_item(item, limits=limits, private_redirects=private_redirects)
    return image_from_bytes(data, limits=limits, draft=draft)


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
        if unread := unread_format(data[:HEAD]):
            raise ImageError(
                "format", f"is {unread}, which is not read ({', '.join(_formats())} are)"
            ) from e
        if is_image(data[:HEAD]):
            raise ImageError("decode", "has a damaged header") from e
        raise ImageError(
            "format", f"is not an image of a known format ({', '.join(_formats())})"
        ) from e
    except Image.DecompressionBombError as e:
        raise ImageError("too_large", f"is too large: {one_line(e)}") from e
    except MemoryError as e:
        raise ImageError("too_large", "needs more memory than there is") from e
    except Exception as e:  # hostile files raise nearly anything
        cut = isinstance(e, EOFError) or any(s in str(e).lower() for s in _SIGNS_OF_A_CUT)
        code, words = ("truncated", "is cut short") if cut else ("decode", "cannot be decoded")
        raise ImageError(code, f"{words}: {one_line(e)}") from e
    return image


_SIGNS_OF_A_CUT = ("truncat", "unexpected end", "end of file", "not enough image data")


def _check_size(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_large", f"has {width}x{height} pixels, the limit is {limits.max_pixels}"
        )


@functools.cache
def _formats() -> tuple[str, ...]:
    """Register the decoders, these alone: Pillow would import its 40 others with the first TIFF."""
    names = ["Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP"]
    if avif := bool(features.check("avif")):
        names.append("Avif")
    for name in names:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    return FORMATS if avif else FORMATS[:-1]
