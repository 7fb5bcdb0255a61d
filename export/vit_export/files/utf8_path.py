"""Paths for libraries in C++ and Rust, which open none that is not UTF-8."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_utf8(path: Path) -> Iterator[Path]:
    """Yield a path that is UTF-8 and leads to the same file or folder until the block ends."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path
