"""Images in tar files, as they are read."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from vit_engine.errors import ImageError
from vit_engine.sources.files import check_regular
from vit_engine.sources.item import LIMITS, Item, Span
from vit_engine.sources.signatures import EXTENSIONS, is_image

_GZIP = b"\x1f\x8b"


def items_from_tar(path: str, *, all_files: bool) -> Iterator[Item]:
    """Yield a tar's images in its order, by extension or signature, as `path`/member.

    Members of a plain tar are read where they are decoded, those of a compressed one here, each
    up to the limit. A tar that cannot be read, or ends early, is an item with its error.
    """
    try:
        check_regular(Path(path).stat())
        with Path(path).open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if packed:
                with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                    yield from _members(path, tar, all_files=all_files, packed=True)
            else:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    yield from _members(path, tar, all_files=all_files, packed=False)
    except ImageError as e:
        yield Item(path, error=e)
    except (tarfile.TarError, EOFError, zlib.error) as e:
        yield Item(path, error=ImageError("truncated", f"the tar cannot be read further: {e}"))
    except OSError as e:
        code = "permission" if isinstance(e, PermissionError) else "missing"
        yield Item(path, error=ImageError(code, f"cannot be read: {e.strerror or e}"))


def _members(path: str, tar: tarfile.TarFile, *, all_files: bool, packed: bool) -> Iterator[Item]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would remember them all
        if not member.isreg() or member.sparse is not None:
            continue
        if not all_files and os.path.splitext(member.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122
            continue
        name = f"{path}/{member.name}"
        if all_files and not packed:
            with Path(path).open("rb") as file:
                file.seek(member.offset_data)
                if not is_image(file.read(16)):
                    continue
        if not packed:
            yield Item(name, span=Span(path, member.offset_data, member.size))
        elif member.size > LIMITS.max_bytes:
            yield Item(name, error=ImageError("too_large", f"has {member.size} bytes"))
        else:
            content = tar.extractfile(member)
            data = content.read() if content else b""
            if not all_files or is_image(data[:16]):
                yield Item(name, data=data)
