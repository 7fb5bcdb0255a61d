"""Object stores and local disks as one thing, through fsspec: `s3://`, `gs://`, plain paths."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from vit_engine.errors import (
    ImageError,
    MachineError,
    UsageError,
    VitError,
    one_line,
    printable,
)
from vit_engine.machine.installation import pip_install
from vit_engine.sources.files import bytes_from_path
from vit_engine.sources.folders import WILD, by_name, in_words, is_wanted
from vit_engine.sources.sample import LIMITS, Limits, Sample
from vit_engine.sources.urls import is_remote, is_url

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = (
    "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "hf", "hdfs", "file", "memory",
)  # fmt: skip
"""Of the URLs that are read through fsspec, in lower case."""


@dataclass(frozen=True)
class Folder:
    """A folder on any file system; `path` is without the scheme."""

    filesystem: "FileSystem"
    path: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")


def _extra() -> str:
    return f"{pip_install('ray')} brings fsspec, s3fs and pyarrow"


def is_store(path: str) -> bool:
    """Tell whether a path is fsspec's to read: it has a scheme, and not http(s)."""
    return is_remote(path) and not is_url(path)


def folder_from_path(path: str) -> Folder:
    """Return the folder that a path or an object store's URL names; it need not exist."""
    try:
        from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem
    except ImportError as e:
        raise MachineError(f"{printable(path)}: needs pyarrow; {_extra()}") from e
    if not is_store(path):
        return Folder(LocalFileSystem(), os.path.abspath(path))  # noqa: PTH100  as pyarrow spells it
    store, root = _store(path)
    return Folder(PyFileSystem(FSSpecHandler(store)), root.rstrip("/"))


def bytes_from_store(path: str, *, limits: Limits = LIMITS) -> bytes:
    """Read one object with one request, up to the limit; `ImageError` where that cannot be."""
    try:
        store, name = _store(path)
    except VitError as e:
        raise ImageError("missing", f"cannot be read: {e}") from e
    if "file" in store.protocol:
        return bytes_from_path(name, limits=limits)
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
    return ImageError("missing", f"cannot be read: {printable(one_line(e))}")


def samples_from_store(source: str, *, skipped: Counter[str]) -> Iterator[Sample]:
    """Yield the objects that a URL, a prefix or a pattern names; one level's names in memory.

    UsageError or MachineError, at once, for one that names none or that cannot be listed; a prefix
    that fails later is an item with its error. `skipped` is that of `folders.is_wanted`.
    """
    store, root = _store(source)
    try:
        if WILD.search(root):
            found = store.glob(root, detail=True)
            names = sorted(name for name, info in found.items() if info["type"] != "directory")
            if not names:
                raise UsageError(f"{printable(source)}: no object matches this pattern")
            return (Sample(store.unstrip_protocol(name)) for name in names)
        if not source.endswith("/") and not store.isdir(root):
            return iter((Sample(source),))
        listing = store.ls(root, detail=True)
    except VitError:
        raise
    except FileNotFoundError:
        listing = []
    except Exception as e:  # each store raises its own
        raise MachineError(f"{printable(source)}: cannot be listed ({one_line(e)})") from e
    samples = _walked(store, root, listing, skipped)
    first = next(samples, None)
    if first is None:
        more = f"; passed over: {in_words(skipped)}" if skipped else ""
        raise UsageError(
            f"{printable(source)}: no image below this prefix (searched by extension){more}"
        )
    return chain((first,), samples)


def _walked(
    store: Any, root: str, listing: list[dict[str, Any]], skipped: Counter[str]
) -> Iterator[Sample]:
    """Search depth first, names sorted: the order must be the same each time."""
    stack = [root]
    while stack:
        folder = stack.pop()
        if folder != root:
            try:
                listing = store.ls(folder, detail=True)
            except Exception as e:  # noqa: BLE001  each store raises its own; the others go on
                path = store.unstrip_protocol(folder) + "/"
                yield Sample(
                    path, error=ImageError("missing", f"cannot be listed: {printable(one_line(e))}")
                )
                continue
        below = []
        for name, kind in sorted((info["name"].rstrip("/"), info["type"]) for info in listing):
            if name.strip("/") == folder.strip("/"):  # what marks a folder in some stores
                continue
            if kind == "directory":
                below.append(name)
                continue
            if is_wanted(name[len(root) :], by_name(name), skipped):
                yield Sample(store.unstrip_protocol(name))
        stack += reversed(below)


def _store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it; its listings are not kept in memory."""
    scheme, rest = url.split("://", 1)
    if scheme.lower() not in SCHEMES:
        raise UsageError(
            f"{printable(url)}: {scheme}:// is not supported; http://, https:// and "
            f"{', '.join(f'{name}://' for name in SCHEMES)} are"
        )
    try:
        import fsspec

        store, path = fsspec.core.url_to_fs(f"{scheme.lower()}://{rest}", use_listings_cache=False)
    except ImportError as e:
        raise UsageError(
            f"{printable(url)}: {scheme}:// needs another package ({one_line(e)}); {_extra()}; "
            "without it files, folders, http:// and https:// are read"
        ) from e
    except (ValueError, OSError) as e:
        raise UsageError(f"{printable(url)}: cannot be opened ({one_line(e)})") from e
    return store, str(path)
