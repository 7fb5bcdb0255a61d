"""From bytes or a path to a decoded image, under limits; whatever fails is an `ImageError`."""

import io
import os

from PIL import Image, ImageFile, JpegImagePlugin

from vit_engine.errors import ImageError
from vit_engine.images.pillow import (
    SETTINGS,
    Setting,
    check_settings,
    image_classes,
    image_errors,
    quiet,
)
from vit_engine.sources.files import bytes_from_path
from vit_engine.sources.item import LIMITS, Item, Limits
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.signatures import HEAD, is_image, unread_format


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
    smaller than this (width, height). `AlteredPillowError` where Pillow's settings in this process
    are not those it ships with, and could let half an image pass.
    """
    if not data:
        raise ImageError("empty", "is empty")
    with quiet, image_errors():
        image, settings = _opened(data)
        check_settings(settings)
        _check_size(image, limits)
        if draft is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, draft)
        image.load()
        _check_size(image, limits)
        check_settings(settings)  # again: another thread may have set one meanwhile
    return image


def _opened(data: bytes) -> tuple[ImageFile.ImageFile, tuple[Setting, ...]]:
    """Return the image with its header read, and the settings that its format heeds."""
    for name, image_class in image_classes().items():
        try:
            return image_class(io.BytesIO(data)), SETTINGS[name]
        except SyntaxError:  # it is of another format, or damaged
            continue
        except Exception:  # it is damaged; or it is no image, where the WebP of Pillow 11 says so
            check_settings(SETTINGS[name])
            if is_image(data[:HEAD]):
                raise
    known = ", ".join(image_classes())
    if unread := unread_format(data[:HEAD]):
        raise ImageError("format", f"is {unread}, which is not read ({known} are)")
    if is_image(data[:HEAD]):
        raise ImageError("decode", "begins like an image, but its header is damaged")
    raise ImageError("format", f"is not an image of a known format ({known})")


def _check_size(image: Image.Image, limits: Limits = LIMITS) -> None:
    """Raise ImageError `too_large` for an image of more pixels than the limit."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_large", f"has {width}x{height} pixels, the limit is {limits.max_pixels}"
        )
