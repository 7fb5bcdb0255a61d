"""What a caller may give as an image, and what it is taken for."""

import contextlib
import inspect
import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.errors import ImageError, one_line
from vit_engine.images.image_errors import image_errors
from vit_engine.images.preprocess import is_loaded, rgb_from_image
from vit_engine.sources.sample import MAX_BYTES, MAX_PIXELS, Sample
from vit_engine.sources.urls import is_remote


class ReadableFile(Protocol):
    """A file opened for reading bytes, or what behaves like one."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


ImageLike = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | ReadableFile
    | Image.Image
    | NDArray[np.uint8]
    | Sample
)
"""One image: a path, or a URL where `urls` allows it; the bytes of an image file, or such a file
opened with 'rb'; a PIL image; a uint8 array (H, W), (H, W, 1), (H, W, 3) in RGB or (H, W, 4), whose
alpha is dropped; or a Sample."""

_KINDS = (
    "an image is a path, a URL, bytes, a file opened with 'rb', a PIL image or a uint8 array "
    "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a tensor (3, H, W) with values from 0 to 255 "
    "becomes one by tensor.permute(1, 2, 0).cpu().numpy()"
)


@dataclass(frozen=True)
class LazyImage:
    """A PIL image that was opened and not loaded yet, in a list that holds it open."""

    image: Image.Image
    lock: threading.Lock  # the list may hold it twice, and two threads must not load it at once


@dataclass(eq=False)
class ImageInput:
    """One image as it was when it was taken: what its owner does to it later changes nothing.

    `path` is what its prediction shows, None for an image without a name. `image` is an item to be
    read, an image to be loaded, or an upright RGB image; None once it is decoded, and where it has
    an `error`.
    """

    path: str | None
    image: Sample | LazyImage | Image.Image | None
    error: ImageError | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds until it is decoded."""
        if isinstance(self.image, Image.Image):
            return 4 * self.image.width * self.image.height  # Pillow keeps RGB in 4 bytes a pixel
        return len(self.image.data or b"") if isinstance(self.image, Sample) else 0


def images_from(given: Iterable[ImageLike] | ImageLike) -> Iterable[ImageLike]:
    """Return an iterable of images: the one that was given, a batch's, or that of one image alone.

    An array of four dimensions is a batch; so is one of objects or strings, whatever it holds.
    TypeError for what is neither an image nor an ordered run of images.
    """
    if isinstance(given, np.ndarray):
        several = given.ndim == 4 if given.dtype.kind not in "OSUT" else given.ndim > 0
        return cast(Iterable[ImageLike], given) if several else [given]
    if _is_one(given):
        return [cast(ImageLike, given)]
    is_run = isinstance(given, Iterable) or hasattr(type(given), "__getitem__")
    is_other = isinstance(given, Mapping | set | frozenset) or hasattr(type(given), "columns")
    if is_run and not is_other and not _is_tensor(given):
        return cast(Iterable[ImageLike], given)
    message = f"give an image, or a list of images; {_KINDS}"
    raise TypeError(f"images is of type {_name_of(given)}: {message}")


def as_inputs(images: Iterable[ImageLike], *, urls: bool = False) -> Iterator[ImageInput]:
    """Take one image after the other; what raises meanwhile is an error of that image alone.

    Memory that the caller may use again is copied, and what he may close is read: arrays, PIL
    images, buffers, open files. A list or tuple keeps its images, so those of Pillow that are not
    loaded yet stay so. `urls` is that of `input_from_image`.
    """
    locks: dict[int, threading.Lock] | None = {} if isinstance(images, list | tuple) else None
    for position, image in enumerate(images):
        if locks is not None and isinstance(image, Image.Image) and not is_loaded(image):
            lock = locks.setdefault(id(image), threading.Lock())
            yield ImageInput(None, LazyImage(image, lock))
        else:
            yield input_from_image(image, f"images[{position}]", urls=urls)


def input_from_image(image: object, name: str, *, urls: bool = False) -> ImageInput:
    """Take one image; `name` says which one it is where it is none.

    A string is a path, and only with `urls` a URL: it may come from who should have no say in
    where this machine connects to.
    """
    path = None
    try:
        with image_errors():
            if isinstance(image, Sample):
                return ImageInput(image.path, image)
            if isinstance(image, str | os.PathLike):
                path = str.__str__(os.fsdecode(image))  # a plain one: NumPy's are of a subclass
                if not urls and is_remote(path):
                    message = "is a URL, and strings are paths; give urls=True to have it read"
                    raise ImageError("missing", message)
                return ImageInput(path, Sample(path))
            return ImageInput(None, _contents(image, name))
    except ImageError as e:
        return ImageInput(path, None, e)


def _contents(image: object, name: str) -> Sample | Image.Image:
    if isinstance(image, bytes | bytearray | memoryview):
        return _item(bytes(image))
    if isinstance(image, Image.Image):
        return rgb_from_image(image)
    if isinstance(image, np.ndarray):
        return _image_from_array(image, name)
    if _is_file(image):
        return _item(_bytes_from_file(cast(ReadableFile, image), name))
    found = one_line(str(image), 40) if isinstance(image, bool | int | float | complex) else ""
    kind = f"{name} is of type {_name_of(image)}{found and f' ({found})'}"
    raise ImageError("format", f"{kind}: {_KINDS}")


def _image_from_array(array: NDArray[np.generic], name: str) -> Image.Image:
    """Return a copy of an array as an RGB image."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            "format",
            f"{name} is a {array.dtype} array of shape {array.shape}; an array must be uint8 "
            "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4), with values from 0 to 255",
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            "too_large", f"{name} is an array of shape {array.shape}, of over {MAX_PIXELS} pixels"
        )
    if not array.size:
        raise ImageError("format", f"{name} is an array of shape {array.shape}, without a pixel")
    if channels == 1:  # Pillow takes a grey array's memory for its own, and copies it here
        return Image.fromarray(array.reshape(array.shape[:2])).convert("RGB")
    return Image.fromarray(array[..., :3])


def _bytes_from_file(file: ReadableFile, name: str) -> bytes:
    """Read an open file, from its start where it can go there, as Pillow does."""
    with contextlib.suppress(AttributeError, OSError):
        cast(io.BufferedIOBase, file).seek(0)
    parts = []
    left = MAX_BYTES + 1
    while left > 0:
        part = file.read(min(left, 2**24))
        if not isinstance(part, bytes | bytearray | memoryview):
            if inspect.iscoroutine(part):
                part.close()
            raise ImageError(
                "format",
                f"{name} is of type {_name_of(file)}, whose read() gives {_name_of(part)}, not "
                "bytes; a file must be opened with open(path, 'rb')",
            )
        if not part:
            break
        parts.append(bytes(part))
        left -= len(part)
    return b"".join(parts)


def _item(data: bytes) -> Sample:
    if len(data) > MAX_BYTES:
        raise ImageError("too_large", f"has more than {MAX_BYTES} bytes")
    return Sample("", data=data)


def _is_one(given: object) -> bool:
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Sample)
    return isinstance(given, kinds) or _is_file(given)


def _is_file(given: object) -> bool:
    return callable(getattr(given, "read", None))


def _is_tensor(given: object) -> bool:
    """Tell an array of another library, which is as good as an image once it is converted."""
    return hasattr(type(given), "__dlpack__") and hasattr(type(given), "shape")


def _name_of(given: object) -> str:
    kind = type(given)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
