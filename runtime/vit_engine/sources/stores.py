"""Object stores and local disks as one thing, through fsspec: `s3://`, `gs://`, plain paths."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vit_engine.errors import ImageError, MachineError, UsageError, one_line, printable
from vit_engine.sources.downloads import is_url
from vit_engine.sources.item import LIMITS, Item, Limits
from vit_engine.sources.signatures import EXTENSIONS

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Folder:
    """A folder on any file system; `path` is without the scheme."""

    filesystem: "FileSystem"
    path: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")


def is_store(path: str) -> bool:
    """Tell whether a path is fsspec's to read: it has a scheme, and not http(s)."""
    return _SCHEME.match(path) is not None and not is_url(path)


def folder_from_path(path: str) -> Folder:
    """Return the folder that a path or an object store's URL names; it need not exist."""
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    if not is_store(path):
        return Folder(LocalFileSystem(), os.path.abspath(path))  # noqa: PTH100  as pyarrow spells it
    store, root = _store(path)
    return Folder(PyFileSystem(FSSpecHandler(store)), root.rstrip("/"))


def bytes_from_store(path: str, *, limits: Limits = LIMITS) -> bytes:
    """Read one object with one request, up to the limit; `ImageError` where that cannot be."""
    store, name = _store(path)
    try:
        data: bytes = store.cat_file(name, start=0, end=limits.max_bytes + 1)
    except Exception as e:  # each store raises its own
        raise _image_error(store, name, e) from e
    if not data:
        raise ImageError("empty", "is empty")
    if len(data) > limits.max_bytes:
        raise ImageError("too_large", f"has more than {limits.max_bytes} bytes")
    return data


def _image_error(store: Any, name: str, e: Exception) -> ImageError:
    if isinstance(e, FileNotFoundError):
        return ImageError("missing", "cannot be read: no such object")
    if isinstance(e, PermissionError):
        return ImageError("permission", "cannot be read: the store denies access")
    try:
        if store.size(name) == 0:  # a range of nothing cannot be asked for
            return ImageError("empty", "is empty")
    except Exception:  # noqa: BLE001  the first error tells more
        pass
    return ImageError("missing", f"cannot be read: {one_line(e)}")


def items_from_store(source: str) -> Iterator[Item]:
    """Yield the objects that a URL, a prefix or a pattern names; one level's names in memory."""
    store, root = _store(source)
    if _WILD.search(root):
        paths: Iterable[str] = sorted(store.glob(root))
        if not paths:
            raise UsageError(f"{printable(source)}: no object matches this pattern")
    elif source.endswith("/") or store.isdir(root):
        paths = _walked(store, root)
    else:
        return iter((Item(source),))
    return (Item(store.unstrip_protocol(path)) for path in paths)


def _walked(store: Any, root: str) -> Iterator[str]:
    """Search depth first, names sorted: the order must be the same each time."""
    found = False
    for folder, folders, files in store.walk(root, detail=False):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                found = True
                yield f"{folder}/{name}"
    if not found:
        raise UsageError(f"{printable(root)}: no image below this prefix (searched by extension)")


def _store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it; its listings are not kept in memory."""
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as e:
        raise MachineError(f"{printable(url)}: {e}") from e
    except ValueError as e:
        raise UsageError(f"{printable(url)}: {e}; schemes are s3://, gs://, abfs:// ...") from e
    return store, str(path)
