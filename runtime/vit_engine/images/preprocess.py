"""From an image to the input's pixels, by the contract; the same bits as transformers' PIL path."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from vit_engine.artefact.contract import FILTERS, Anchor, Preprocessing
from vit_engine.errors import ImageError
from vit_engine.images.image_errors import check_size, image_errors
from vit_engine.sources.sample import MAX_PIXELS

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels_from_image(
    image: Image.Image, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return the input as uint8 RGB (height, width, 3), equal to transformers and timm to the bit.

    Upright by EXIF, RGB, resized on uint8, cropped. `ImageError` `truncated`, `decode` or
    `too_large` where that cannot be; `max_pixels` raises the limit of an image, and on the way.
    """
    max_pixels = max(max_pixels, MAX_PIXELS)
    return pixels_from_rgb(rgb_from_image(image, max_pixels), preprocessing, max_pixels)


def pixels_from_rgb(
    rgb: Image.Image, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return what `pixels_from_image` does, of an image that is upright and RGB already."""
    height, width = _resized(rgb.height, rgb.width, preprocessing)
    if min(height, width) < 1:
        raise ImageError(
            "decode", f"of {rgb.width}x{rgb.height} pixels, one edge would shrink to 0"
        )
    # Pillow resizes the rows first, so a one pixel wide image passes through `width` x its height.
    if width * max(height, rgb.height) > max_pixels:
        raise ImageError(
            "too_large",
            f"{rgb.width}x{rgb.height} pixels would be resized to {width}x{height}, "
            f"which passes through more than {max_pixels} pixels, the limit",
        )
    resample = Image.Resampling(FILTERS.index(preprocessing.filter))
    pixels: NDArray[np.uint8] = np.asarray(rgb.resize((width, height), resample))
    return pixels if preprocessing.crop is None else _cropped(pixels, preprocessing)


def draft_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) below which a reduced decode would lose what the input shows."""
    # Both ways round: EXIF may yet turn the image. Of two edges the first is the shortest.
    side = preprocessing.resize[0] if preprocessing.rule == "edges" else max(preprocessing.resize)
    return side, side


def rgb_from_image(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a copy, upright and in RGB, as `transformers.image_utils.load_image` does.

    EXIF that cannot be read means no rotation. Alpha is dropped, not blended, and 16- and 32-bit
    greys are narrowed to 8 bits by Pillow's `convert`, whatever its version does: that is what the
    models' published numbers were measured with.

    An image that was opened and not yet loaded is loaded; `ImageError` for whatever it raises.
    """
    with image_errors():
        check_size(image, max_pixels)
        if not is_loaded(image) and getattr(image, "fp", None) is None:
            raise ImageError("decode", "is a PIL image that was closed before it was loaded")
        image.load()
        method = _upright(image)
        rgb = (image if method is None else image.transpose(method)).convert("RGB")
    if min(rgb.size) < 1:
        raise ImageError("decode", f"has no pixels ({rgb.width}x{rgb.height})")
    return rgb


def is_clipped_to_8bit(image: Image.Image) -> bool:
    """Tell whether `rgb_from_image` takes greys of 16 or 32 bits, or floats, to 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def format_clipped_to_8bit(count: int) -> str:
    """Return the warning of a run with so many such images."""
    images, their = ("1 image has", "its") if count == 1 else (f"{count:,} images have", "their")
    return (
        f"{images} greys of 16 or 32 bits or floats, which become black or white for the most "
        f"part, as in transformers: {their} labels may mean nothing; convert to 8 bits first"
    )


def is_loaded(image: Image.Image) -> bool:
    """Tell whether loading would read nothing more: WebP and AVIF are read when they are opened."""
    return not getattr(image, "tile", None)


def _upright(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  hostile EXIF raises nearly anything
        return None


def _resized(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to, rounded as the reference rounds."""
    first, second = preprocessing.resize
    match preprocessing.rule:
        case "squash":
            return first, second
        case "within":
            scale = min(first / height, second / width)
            return int(height * scale), int(width * scale)
        case "within_rounded":
            ratio = max(height / first, width / second)
            return round(height / ratio), round(width / ratio)
    shortest: float = first
    if preprocessing.rule == "edges" and max(height, width) / min(height, width) * first > second:
        shortest = second * min(height, width) / max(height, width)
    short = round(shortest)
    if short == min(height, width):  # never reached by a bound, and no change without one
        return height, width
    if width <= height:
        return int(shortest * height / width), short
    return short, int(shortest * width / height)


def _cropped(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the crop, and where the image does not reach, the colour that fills it."""
    assert preprocessing.crop is not None
    height, width = preprocessing.crop
    top, left = (
        _start(found, wanted, preprocessing.anchor)
        for found, wanted in zip(pixels.shape[:2], preprocessing.crop, strict=True)
    )
    part = pixels[max(top, 0) : top + height, max(left, 0) : left + width]
    if part.shape[:2] == preprocessing.crop:
        return part
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = preprocessing.fill
    row, column = max(-top, 0), max(-left, 0)
    canvas[row : row + part.shape[0], column : column + part.shape[1]] = part
    return canvas


def _start(found: int, wanted: int, anchor: Anchor) -> int:
    """Return where a crop begins on an edge, in pixels: below 0 where it is the longer one."""
    if anchor == "top_left":
        return 0
    if anchor == "centre":
        return (found - wanted) // 2
    return round((found - wanted) / 2) if found > wanted else -((wanted - found) // 2)
