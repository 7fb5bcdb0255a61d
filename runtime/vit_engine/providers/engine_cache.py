"""Where built engines are kept: folders of our own, one for each thing they depend on.

An engine is executable code, or as good as that. Folders that others can write to are refused, and
files that are not byte for byte what was built are thrown away.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from vit_engine.errors import ProviderError
from vit_engine.machine.atomic import write_whole

log = logging.getLogger(__name__)

SEAL = "sealed.json"
"""Written last: the key and the hashes of the files beside it."""

TIMING = ".timing"
"""Suffix of TensorRT's timings of kernels, which only speed a build up and change with each."""


Maker = Literal["TensorRT", "OpenVINO"]
"""What builds the engines; in lower case it names their folder."""


class NoCacheError(ProviderError):
    """There is nowhere to keep engines, or nothing was kept."""


def root(maker: Maker = "TensorRT") -> Path:
    """Return the folder of all engines of a maker, below XDG_CACHE_HOME or ~/.cache.

    NoCacheError for a user without a home: a uid that no password file knows, and no HOME.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        caches = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as e:
        message = f"there is no home folder for {maker}'s engines; set XDG_CACHE_HOME"
        raise NoCacheError(message) from e
    return caches / "vit-engine" / maker.lower()


@dataclass(frozen=True)
class EngineCache:
    """One folder of engines; `key` is all that they depend on, and names the folder."""

    folder: Path
    key: Mapping[str, str]
    maker: Maker = "TensorRT"

    @classmethod
    def of(cls, key: Mapping[str, str], maker: Maker = "TensorRT") -> Self:
        """Return the cache for a key, its folder made; ProviderError if others can write there."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        cache = cls(root(maker) / digest[:32], key, maker)
        for folder in (root(maker).parent, root(maker), cache.folder):
            _private(folder, maker)
        return cache

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from building the same engine at the same time."""
        with self.folder.with_suffix(".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning(
                    "waiting for another process that is building this %s engine", self.maker
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_valid(self) -> bool:
        """Return whether engines are there, as they were built; tells of any that are not."""
        try:
            sealed = json.loads((self.folder / SEAL).read_text())
        except FileNotFoundError:
            return False  # never built, or not to the end
        except (OSError, ValueError):
            sealed = None
        expected = {"key": dict(self.key), "files": self._hashes()}
        if sealed == expected:
            return True
        log.warning(
            "%s: the stored %s engine is damaged; building it again", self.folder, self.maker
        )
        return False

    def commit(self) -> None:
        """Declare the files in the folder built and good."""
        if not (files := self._hashes()):
            raise NoCacheError(f"{self.folder}: {self.maker} stored no engine in this folder")
        text = json.dumps({"key": dict(self.key), "files": files}, indent=2)
        write_whole(self.folder / SEAL, text.encode())

    def clear(self) -> None:
        """Throw away what the folder holds."""
        shutil.rmtree(self.folder)
        _private(self.folder, self.maker)

    def _hashes(self) -> dict[str, str]:
        found = {}
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(SEAL) and path.suffix != TIMING:
                found[path.name] = file_sha256(path)
        return found


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _private(folder: Path, maker: Maker) -> None:
    """Make a folder for this user alone, or raise ProviderError if others can write to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as e:
        raise NoCacheError(
            f"{folder}: cannot be used as the cache of {maker} engines ({e.strerror}); "
            "set XDG_CACHE_HOME"
        ) from e
    if found.st_uid != os.geteuid() or found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
        raise ProviderError(
            f"{folder}: others can write to this cache of executable code (owner {found.st_uid}, "
            f"mode {stat.filemode(found.st_mode)}); chmod 700 it, or set XDG_CACHE_HOME"
        )
