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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

from vit_engine.errors import ProviderError, WriteError
from vit_engine.machine.atomic import write_whole

log = logging.getLogger(__name__)

T = TypeVar("T")

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


def kept(
    key: Mapping[str, str],
    maker: Maker,
    *,
    loaded: Callable[[Path], T],
    built: Callable[[Path | None], T],
) -> T:
    """Return the engine that `loaded` finds in its cache's folder, or else what `built` builds.

    `built` leaves in the folder what is to be kept. Whatever is wrong with the cache is a warning:
    then `built` is called without a folder, or what it built is not kept. `loaded` raises
    ProviderError for an engine that does not load, which is built again.
    """
    with ExitStack() as lock:
        try:
            cache = EngineCache.of(key, maker)
            lock.enter_context(cache.locked())
            if cache.is_valid():
                try:
                    return loaded(cache.folder)
                except ProviderError as e:
                    log.warning(
                        "the stored %s engine does not load (%s); building it again", maker, e
                    )
            cache.clear()
        except (NoCacheError, OSError) as e:
            where = f"{root(maker)}: cannot be used as the cache of {maker} engines"
            reason = e if isinstance(e, NoCacheError) else f"{where} ({e}); set XDG_CACHE_HOME"
            log.warning("%s; until then each start builds the engine anew", reason)
            return built(None)
        engine = None
        try:
            engine = built(cache.folder)
            cache.commit()
        except (NoCacheError, WriteError, OSError) as e:
            log.warning("the %s engine is not kept: %s", maker, e)
        return built(None) if engine is None else engine


@dataclass(frozen=True)
class EngineCache:
    """One folder of engines; `key` is all that they depend on, and names the folder.

    Its methods raise OSError for a cache that cannot be used.
    """

    folder: Path
    key: Mapping[str, str]
    maker: Maker = "TensorRT"

    @classmethod
    def of(cls, key: Mapping[str, str], maker: Maker = "TensorRT") -> Self:
        """Return the cache for a key, its folder made; NoCacheError if others can write there."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        cache = cls(root(maker) / digest[:32], key, maker)
        for folder in (root(maker).parent, root(maker), cache.folder):
            _private(folder)
        return cache

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from building the same engine at the same time."""
        path = self.folder.with_suffix(".lock")
        try:
            file = path.open("a")
        except OSError:
            file = path.open()  # what is read-only can be read; NFS locks only what can be written
        with file:
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
        seal = self.folder / SEAL
        if not seal.exists():
            return False  # never built, or not to the end
        with suppress(OSError, ValueError, RecursionError):
            if json.loads(seal.read_text()) == self._sealed():
                return True
        log.warning(
            "%s: the stored %s engine is damaged; building it again", self.folder, self.maker
        )
        return False

    def commit(self) -> None:
        """Declare the files in the folder built and good; NoCacheError where there are none."""
        sealed = self._sealed()
        if not sealed["files"]:
            raise NoCacheError(f"{self.folder}: {self.maker} stored no engine in this folder")
        write_whole(self.folder / SEAL, json.dumps(sealed, indent=2).encode())

    def clear(self) -> None:
        """Throw away what the folder holds."""
        shutil.rmtree(self.folder)
        _private(self.folder)

    def _sealed(self) -> dict[str, dict[str, str]]:
        """Return what the seal says: the key, and the hashes of the files beside it."""
        files = {
            path.name: file_sha256(path)
            for path in sorted(self.folder.iterdir())
            if not path.name.startswith(SEAL) and path.suffix != TIMING
        }
        return {"key": dict(self.key), "files": files}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _private(folder: Path) -> None:
    """Make a folder for this user alone, or raise NoCacheError if others can write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
        raise NoCacheError(
            f"{folder}: others can write to this cache of executable code (owner {found.st_uid}, "
            f"mode {stat.filemode(found.st_mode)}); chmod 700 it, or set XDG_CACHE_HOME"
        )
