"""Whatever an image raises, as one coded error: hostile files raise nearly anything."""

import contextlib
from collections.abc import Iterator

from PIL import Image

from vit_engine.errors import ImageError, VitError, one_line

_SIGNS_OF_A_CUT = ("truncat", "unexpected end", "end of file", "not enough image data")


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever an image raises into an `ImageError`."""
    try:
        yield
    except VitError:
        raise
    except MemoryError as e:
        raise ImageError("too_large", "needs more memory than there is") from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ImageError("too_large", f"is too large: {one_line(e)}") from e
    except Exception as e:
        cut = isinstance(e, EOFError) or any(s in str(e).lower() for s in _SIGNS_OF_A_CUT)
        code, message = ("truncated", "is cut short") if cut else ("decode", "cannot be decoded")
        raise ImageError(code, f"{message}: {one_line(e)}") from e


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise ImageError `too_large` for an image of more pixels than the limit."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_large", f"has {width}x{height} pixels, the limit is {max_pixels}")
