"""Writing that outlasts a crash of the machine: a file is the old one or the new one, whole."""

import os
from pathlib import Path


def write_all(file: int, data: bytes) -> None:
    """Write all of the data to an open file."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def replace(path: Path, data: bytes) -> None:
    """Write a file under another name, sync it, and give it its name; OSError leaves the old."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(file, data)
        os.fsync(file)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a crash."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
