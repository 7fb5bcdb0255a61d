"""Pillow as it ships: its settings and warnings belong to the whole process, and decide nothing.

Other libraries of a process set `LOAD_TRUNCATED_IMAGES`, raise `MAX_IMAGE_PIXELS`, register plugins
for formats of ours, turn warnings into errors. What is theirs is neither used nor changed.
"""

import contextlib
import functools
import importlib
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple, cast

from PIL import Image, ImageFile, PngImagePlugin, features

from vit_engine.errors import ImageError, VitError, one_line


class Setting(NamedTuple):
    """A variable of Pillow's that decides which files are decoded, with the value it ships with."""

    module: ModuleType
    name: str
    shipped: object


TRUNCATED = Setting(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
_PIXELS = Setting(Image, "MAX_IMAGE_PIXELS", 1024**3 // 4 // 3)
_TEXT = (
    Setting(PngImagePlugin, "MAX_TEXT_CHUNK", 2**20),
    Setting(PngImagePlugin, "MAX_TEXT_MEMORY", 2**26),
)

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "JPEG": (TRUNCATED,),
    "PNG": (TRUNCATED, *_TEXT),
    "BMP": (TRUNCATED,),
    "GIF": (TRUNCATED, _PIXELS),
    "TIFF": (TRUNCATED, _PIXELS),
    "WEBP": (_PIXELS,),
    "AVIF": (),
}
"""What is decoded, by Pillow's names, and the settings that each format's decoder heeds by itself.

`Image.open` heeds more, and is not used.
"""


class AlteredPillowError(ImageError):
    """The image may be sound, but Pillow as it is set in this process would not tell."""

    def __init__(self, setting: Setting, found: object) -> None:
        super().__init__(
            "decode",
            f"cannot be decoded in this process: {setting.module.__name__}.{setting.name} is "
            f"{found}, Pillow's own value is {setting.shipped}",
        )


def check_settings(settings: tuple[Setting, ...]) -> None:
    """Raise AlteredPillowError where one of the settings is not as Pillow ships it."""
    for setting in settings:
        found = getattr(setting.module, setting.name)
        if found != setting.shipped:
            raise AlteredPillowError(setting, found)


@functools.cache
def image_classes() -> dict[str, type[ImageFile.ImageFile]]:
    """Return Pillow's own class for each format, whatever is registered for `Image.open`.

    AVIF only where Pillow was built with it.
    """
    found = {}
    for name in ("Jpeg", "Png", "Bmp", "Gif", "Tiff", "Avif", "WebP"):
        if name != "Avif" or features.check("avif"):
            module = importlib.import_module(f"PIL.{name}ImagePlugin")
            found[name.upper()] = cast(type[ImageFile.ImageFile], vars(module)[f"{name}ImageFile"])
    return found


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever an image raises into an `ImageError`: hostile files raise nearly anything."""
    try:
        yield
    except VitError:  # told already
        raise
    except Exception as e:
        raise _error_from_exception(e) from e


def _error_from_exception(e: Exception) -> ImageError:
    if isinstance(e, MemoryError):
        return ImageError("too_large", "needs more memory than there is")
    if isinstance(e, Image.DecompressionBombError):
        return ImageError("too_large", f"is too large: {one_line(e)}")
    cut = isinstance(e, EOFError) or any(s in str(e).lower() for s in _SIGNS_OF_A_CUT)
    code, words = ("truncated", "is cut short") if cut else ("decode", "cannot be decoded")
    return ImageError(code, f"{words}: {one_line(e)}")


_SIGNS_OF_A_CUT = ("truncat", "unexpected end", "end of file", "not enough image data")


class _AtWork(threading.local):
    """How many times over this thread is inside `quiet`."""

    depth = 0


class _OnOurThreads:
    """Stands in a warnings filter for the regular expression on the name of a module."""

    def __init__(self, at_work: _AtWork) -> None:
        self._at_work = at_work

    def match(self, module: str) -> bool:
        return self._at_work.depth > 0 and module.startswith("PIL.")


class _Quiet:
    """A context manager in which Pillow's warnings are silent: errors tell what matters of them.

    On this thread alone, and even where a warning is to be an error: `warnings.catch_warnings` is
    for all threads, and not safe among them. A filter of ours, which matches nothing on any other
    thread, is put before those of others, and stays.
    """

    def __init__(self) -> None:
        self._at_work = _AtWork()
        self._entry = self._new_entry()

    def __enter__(self) -> None:
        filters = cast(list[Any], warnings.filters)
        if not filters or filters[0] is not self._entry:
            # The new one comes before the old one goes: other threads may be at work. No lock,
            # which a fork could find held.
            old, self._entry = self._entry, self._new_entry()
            filters.insert(0, self._entry)
            with contextlib.suppress(ValueError):
                filters.remove(old)
        self._at_work.depth += 1

    def __exit__(self, *exception: object) -> None:
        self._at_work.depth -= 1

    def _new_entry(self) -> tuple[Any, ...]:
        """Return what `warnings.filters` holds: action, message, category, module, line."""
        return ("ignore", None, Warning, _OnOurThreads(self._at_work), 0)


quiet = _Quiet()
